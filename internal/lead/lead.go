// Package lead answers what an orchestrator tells a host that polls: what has
// changed, when to come back, or nothing yet, if it may wait for an answer. It
// decides, and leaves the network, the disk, the clock and the waiting to what
// it is given: a server's real ones, or a simulator's.
package lead

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/internal/fleet"
	"espalier/internal/pace"
	"espalier/internal/wire"
	"espalier/store"
)

// Sets is where the sets lie. Its errors are as package store has them.
type Sets interface {
	// Head returns the current revision of a set, from memory.
	Head(desired.Name) (desired.Head, error)
	// View calls fn with a set as it is at one time.
	View(set desired.Name, fn func(Snapshot) error) error
	// Fork notes that a host holds a revision at p that is not in the set's history.
	Fork(ctx context.Context, set desired.Name, p desired.Position) error
}

// Snapshot is a set as it is at one time.
type Snapshot interface {
	delta.Source
	// Committed returns when its head was committed; zero: that is not known.
	Committed() (time.Time, error)
}

// Options configures a Leader.
type Options struct {
	Sets  Sets
	Fleet *fleet.Fleet
	Codec *delta.Codec
	// Pace is what polls are held to; Start is when the server did.
	Pace  pace.Options
	Start time.Time
	// Random is chance; nil: the machine's.
	Random *rand.Rand
	// MaxHeld is how many polls are held at a time; 0: none.
	MaxHeld int
	// InlineBytes bounds the deltas that answer a poll; 0, or more than
	// delta.InlineBytes: at that.
	InlineBytes int
	Logger      *slog.Logger
}

// Leader answers polls. It is safe for concurrent use.
type Leader struct {
	options Options
	log     *slog.Logger

	mu      sync.Mutex
	pace    *pace.Fleet
	sets    map[desired.Name]*pace.Set // whose changes were seen
	hosts   map[desired.Name]*pace.Host
	waiting map[desired.Name]map[*Waiter]bool // by the set that they wait for
	held    int
}

// New returns a Leader.
func New(o Options) *Leader {
	if o.Random == nil {
		o.Random = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	return &Leader{
		options: o, log: o.Logger, pace: pace.NewFleet(o.Pace, o.Start, o.Random), sets: map[desired.Name]*pace.Set{},
		hosts: map[desired.Name]*pace.Host{}, waiting: map[desired.Name]map[*Waiter]bool{},
	}
}

// Asker is who polls.
type Asker struct {
	// Host says that it is the host that the poll names; else it is an operator.
	Host    bool
	Address string
	// MayUse reports whether it may use a set.
	MayUse func(desired.Name) bool
	// Foreign is told of a set that the asker doesn't get, since there is none for
	// it; nil: nobody is.
	Foreign func(desired.Name)
}

// Poll answers a poll at now, which has a place to wait if it wants to: see Hold.
// hold says for how long the answer may wait for something to say; 0: it may not.
func (l *Leader) Poll(ctx context.Context, now time.Time, who Asker, p wire.Poll) (answer wire.PollAnswer, hold time.Duration) {
	room := cmp.Or(l.options.InlineBytes, delta.InlineBytes)
	for i, h := range p.Held {
		head, err := desired.Head{}, store.ErrNotFound
		if who.MayUse(h.Name) {
			head, err = l.options.Sets.Head(h.Name)
		}
		if err == nil && h.Current(head) {
			continue
		}
		a := l.answer(ctx, now, h, head, err, room)
		if a.Index = i; a.Status == wire.StatusUnknown && who.Foreign != nil {
			who.Foreign(h.Name)
		}
		room -= len(a.Frame)
		answer.Sets = append(answer.Sets, a)
	}
	if !who.Host {
		answer.Next = l.Load(now).Objective
		return answer, 0
	}
	advice := l.options.Fleet.Poll(now, fleet.Poll{
		Host: p.Host, Address: who.Address, Held: p.Held, ListVersion: p.ListVersion, ListSum: p.ListSum, Report: p.Report,
	})
	answer.List, answer.Tell = advice.List, advice.Tell
	if p.Hold > 0 { // it comes back at once, and is held then
		answer.Held = true
		if quiet(answer) {
			hold = min(p.Hold, MaxHold)
		}
		l.options.Fleet.Paced(p.Host, min(p.Hold, MaxHold), "held")
		return answer, hold
	}
	hint := l.hint(now, p)
	answer.Next = hint.After
	l.options.Fleet.Paced(p.Host, hint.After, hint.Reason.String())
	return answer, 0
}

// quiet reports whether the answer has nothing to say that the host could act
// on.
func quiet(a wire.PollAnswer) bool {
	for _, s := range a.Sets {
		if s.Status == wire.StatusDelta || s.Status == wire.StatusPull {
			return false
		}
	}
	return a.List == nil && !a.Tell
}

// answer says how a host gets at now from what it holds to head, in at most room
// bytes.
func (l *Leader) answer(ctx context.Context, now time.Time, held delta.Held, head desired.Head, err error, room int) wire.Answer {
	if err == nil {
		var a wire.Answer
		err = l.options.Sets.View(held.Name, func(src Snapshot) (err error) {
			if a, err = l.advise(src, held, room); err == nil {
				a.Age, err = age(src, now)
			}
			return err
		})
		if err == nil && a.Status == wire.StatusForked {
			err = l.options.Sets.Fork(ctx, held.Name, desired.Position{Epoch: a.Head.Epoch, Number: held.Number})
		}
		if err == nil {
			return a
		}
	}
	if errors.Is(err, store.ErrNotFound) {
		return wire.Answer{Status: wire.StatusUnknown}
	}
	if !errors.Is(err, store.ErrQuarantined) { // of which the store told once, and hosts would with each poll
		l.log.Warn("a set cannot be served", "set", held.Name, "error", err)
	}
	return wire.Answer{Status: wire.StatusUnavailable}
}

// age returns how long before now the set's head was committed, at least a
// millisecond; 0: that is not known, for clocks may have been set meanwhile.
func age(src Snapshot, now time.Time) (time.Duration, error) {
	at, err := src.Committed()
	if err != nil || at.IsZero() || now.Before(at) {
		return 0, err
	}
	return max(now.Sub(at).Truncate(time.Millisecond), time.Millisecond), nil
}

// advise is answer, once the set is open.
func (l *Leader) advise(src delta.Source, held delta.Held, room int) (wire.Answer, error) {
	head := src.Head()
	forked, err := delta.Forked(src, held)
	if err != nil {
		return wire.Answer{}, err
	}
	if forked {
		return wire.Answer{Status: wire.StatusForked, Head: head}, nil
	}
	frame, ok, err := delta.Inline(l.options.Codec, src, held)
	if ok && len(frame) <= room {
		return wire.Answer{Status: wire.StatusDelta, Number: head.Number, Root: head.Root, Frame: frame}, nil
	}
	return wire.Answer{Status: wire.StatusPull, Head: head}, err
}

// Respond returns the next response of a pull of a set. It is read in a
// transaction of its own.
func (l *Leader) Respond(sender *delta.Sender, set desired.Name) (resp delta.Response, err error) {
	err = l.options.Sets.View(set, func(src Snapshot) (err error) {
		resp, err = sender.Next(src)
		return err
	})
	return resp, err
}

// hint returns when a host that polled should poll next.
func (l *Leader) hint(now time.Time, p wire.Poll) pace.Hint {
	l.mu.Lock()
	defer l.mu.Unlock()
	host := l.hosts[p.Host]
	if host == nil {
		host = &pace.Host{}
		if len(l.hosts) < fleet.MaxHosts {
			l.hosts[p.Host] = host
		}
	}
	sets := make([]*pace.Set, 0, len(p.Held))
	for _, h := range p.Held {
		if s := l.sets[h.Name]; s != nil {
			sets = append(sets, s)
		}
	}
	return l.pace.Polled(host, sets, now)
}

// Retry returns how long a host should wait that there is no room for now: drawn
// for each, so that they don't come back together.
func (l *Leader) Retry(now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pace.Refused(now).After
}

// Load returns how polls stand to what they are held to.
func (l *Leader) Load(now time.Time) pace.Load {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pace.Load(now)
}
