package lead

import (
	"time"

	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/internal/pace"
)

// Waiter is a poll that is held.
type Waiter struct {
	// Woken has an element once something has changed.
	Woken chan struct{}

	host desired.Name
	sets []desired.Name
}

// Hold lets a poll wait until one of the sets changes, or the host's list does:
// what happens after it returns wakes the Waiter. It returns nil if too many wait
// already. The caller calls Release in the end.
func (l *Leader) Hold(host desired.Name, held []delta.Held) *Waiter {
	w := &Waiter{Woken: make(chan struct{}, 1), host: host, sets: make([]desired.Name, len(held))}
	for i, h := range held {
		w.sets[i] = h.Name
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held >= l.options.MaxHeld {
		return nil
	}
	l.held++
	for _, name := range append(w.sets, hostKey(host)) {
		if l.waiting[name] == nil {
			l.waiting[name] = map[*Waiter]bool{}
		}
		l.waiting[name][w] = true
	}
	return w
}

// hostKey is what stands for a host's list among the sets: no set's name has a
// slash.
func hostKey(host desired.Name) desired.Name { return "host/" + host }

// Release ends the waiting.
func (l *Leader) Release(w *Waiter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held--
	for _, name := range append(w.sets, hostKey(w.host)) {
		delete(l.waiting[name], w)
		if len(l.waiting[name]) == 0 {
			delete(l.waiting, name)
		}
	}
}

// Parting returns when a host should come back whose poll is held as the server
// stops: soon, for it has nobody to tell it of changes, but drawn so that no more
// than PartingRate come in a second.
func (l *Leader) Parting() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	window := max(PartingTime, time.Duration(l.held)*time.Second/PartingRate)
	return pace.MinHint + time.Duration(l.options.Random.Int64N(int64(window)))
}

// Held returns how many polls are held.
func (l *Leader) Held() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held
}

// Knows tells of a set that was there when the server started.
func (l *Leader) Knows(set desired.Name) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sets[set] = &pace.Set{}
}

// Recall tells how often a set that was there when the server started changed, over
// some time before now.
func (l *Leader) Recall(set desired.Name, changes int, over time.Duration, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.sets[set]; s != nil {
		l.pace.Recall(s, changes, over, now)
	}
}

// Changed tells of a set that has changed at now, and wakes those who wait for it.
func (l *Leader) Changed(set desired.Name, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.sets[set]; s != nil {
		l.pace.Changed(s, now)
	} else {
		s = &pace.Set{}
		l.pace.Created(s, now)
		l.sets[set] = s
	}
	l.wake(set)
}

// Relisted wakes a host whose list has changed.
func (l *Leader) Relisted(host desired.Name) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wake(hostKey(host))
}

func (l *Leader) wake(name desired.Name) {
	for w := range l.waiting[name] {
		select {
		case w.Woken <- struct{}{}:
		default:
		}
	}
}
