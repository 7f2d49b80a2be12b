package sim

import (
	"container/heap"
	"iter"
	"time"
)

// schedule is virtual time: what is to happen, in order. What is due at the same
// time happens in the order in which it was asked for.
type schedule struct {
	now   time.Duration
	due   queue
	asked uint64
}

// appointment is something that is to happen.
type appointment struct {
	at    time.Duration
	asked uint64
	what  func()
}

type queue []appointment

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].asked < q[j].asked
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(appointment)) }
func (q *queue) Pop() any {
	last := len(*q) - 1
	a := (*q)[last]
	(*q)[last] = appointment{}
	*q = (*q)[:last]
	return a
}

// after lets something happen once d has passed.
func (s *schedule) after(d time.Duration, what func()) {
	s.asked++
	heap.Push(&s.due, appointment{at: s.now + max(0, d), asked: s.asked, what: what})
}

// step lets the next thing happen; false: there is none before until.
func (s *schedule) step(until time.Duration) bool {
	if len(s.due) == 0 || s.due[0].at > until {
		return false
	}
	a := heap.Pop(&s.due).(appointment)
	s.now = a.at
	a.what()
	return true
}

// task is sequential code that waits now and then. It runs as a coroutine, which
// is handed control and hands it back: nothing depends on how goroutines are
// scheduled.
type task struct {
	clock   *schedule
	next    func() (struct{}, bool)
	stop    func()
	yield   func(struct{}) bool
	waiting bool
	turn    int // counts the waits, so that what was to end one doesn't end the next
	dead    bool
	done    bool
}

// start starts a task, as something that is to happen now.
func (s *schedule) start(fn func(*task)) *task {
	t := &task{clock: s}
	t.next, t.stop = iter.Pull(func(yield func(struct{}) bool) {
		t.yield = yield
		fn(t)
	})
	s.after(0, t.resume)
	return t
}

func (t *task) resume() {
	if t.done {
		return
	}
	if _, more := t.next(); !more {
		t.done = true
	}
}

// wait lets time pass: until wake, at most d. It returns at once in a task that
// was killed.
func (t *task) wait(d time.Duration) {
	if t.dead {
		return
	}
	t.turn++
	turn := t.turn
	t.clock.after(d, func() { t.end(turn) })
	t.waiting = true
	t.dead = !t.yield(struct{}{}) || t.dead
	t.waiting = false
}

// end ends a wait.
func (t *task) end(turn int) {
	if t.waiting && t.turn == turn {
		t.resume()
	}
}

// wake ends the wait that the task is in.
func (t *task) wake() {
	if turn := t.turn; t.waiting {
		t.clock.after(0, func() { t.end(turn) })
	}
}

// kill makes a task unwind: nothing that it waits for comes. It must not be the
// one that runs.
func (t *task) kill() {
	t.dead = true
	if t.turn == 0 && !t.done { // it was never begun, or never waited
		t.stop()
		t.done = true
		return
	}
	t.resume()
}
