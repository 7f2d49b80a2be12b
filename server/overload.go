package server

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"espalier/internal/desired"
	"espalier/internal/wire"
)

// Limits bound what hosts may take of a server; the zero value has defaults.
// Operators are not counted, and polls that have nothing to say are cheap enough
// to have a bound of their own.
type Limits struct {
	// MaxHeld is how many polls wait at a time for something to change; 0:
	// DefaultMaxHeld, less than 0: none.
	MaxHeld int
	// MaxPulls is how many pulls of hosts are under way; 0: DefaultMaxPulls.
	MaxPulls int
	// PollRate is how many polls a second are answered; 0: DefaultPollRate.
	PollRate float64
	// PollBudget is how many polls a second hosts are asked for, in the long run; 0:
	// pace.DefaultBudget.
	PollBudget float64
	// Bytes and HostBytes are how many bytes a second all pulls and those of one
	// host are sent; 0: any number.
	Bytes, HostBytes int
}

func (l Limits) withDefaults() Limits {
	l.MaxHeld = max(cmp.Or(l.MaxHeld, DefaultMaxHeld), 0)
	l.MaxPulls = max(cmp.Or(l.MaxPulls, DefaultMaxPulls), 1)
	if l.PollRate <= 0 {
		l.PollRate = DefaultPollRate
	}
	return l
}

// valve holds hosts to the limits.
type valve struct {
	limits Limits
	polls  *rate.Limiter
	bytes  *rate.Limiter

	mu    sync.Mutex
	pulls int              // of hosts
	pipes map[string]*pipe // by who pulls
	hosts map[desired.Name]*rate.Limiter
}

// pipe is what is sent to one host or operator.
type pipe struct {
	pulls    int
	operator bool
	bytes    *rate.Limiter
}

func newValve(l Limits) *valve {
	return &valve{
		limits: l, polls: rate.NewLimiter(rate.Limit(l.PollRate), int(l.PollRate)+1),
		bytes: bytesLimiter(l.Bytes), pipes: map[string]*pipe{}, hosts: map[desired.Name]*rate.Limiter{},
	}
}

// bytesLimiter returns a limiter that lets any message through, in time.
func bytesLimiter(perSecond int) *rate.Limiter {
	if perSecond <= 0 {
		return rate.NewLimiter(rate.Inf, 0)
	}
	return rate.NewLimiter(rate.Limit(perSecond), max(perSecond, bytesBurst))
}

// poll returns nil if there is room for a poll of a host; empty: it is not known
// which.
func (v *valve) poll(host desired.Name) error {
	if host != "" && !v.limiterOf(host).Allow() {
		return &wire.OverloadedError{Reason: "this host polls too often"}
	}
	if !v.polls.Allow() {
		return &wire.OverloadedError{Reason: "too many polls"}
	}
	return nil
}

// limiterOf returns the limiter of a host's polls, on whichever connections.
func (v *valve) limiterOf(host desired.Name) *rate.Limiter {
	v.mu.Lock()
	defer v.mu.Unlock()
	l := v.hosts[host]
	if l == nil {
		l = rate.NewLimiter(HostPollRate, HostPollBurst)
		v.hosts[host] = l
	}
	return l
}

// pull returns the pipe of who may pull, a host or an operator; the caller calls
// done with it.
func (v *valve) pull(who string, operator bool) (*pipe, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	p, most := v.pipes[who], MaxHostPulls
	if operator {
		most = MaxOperatorPulls
	}
	switch {
	case p != nil && p.pulls >= most:
		return nil, &wire.OverloadedError{Reason: "too many pulls of the same caller"}
	case v.pulls >= v.limits.MaxPulls && !operator:
		return nil, &wire.OverloadedError{Reason: "too many pulls are under way"}
	}
	if p == nil {
		p = &pipe{operator: operator, bytes: bytesLimiter(v.limits.HostBytes)}
		v.pipes[who] = p
	}
	if p.pulls++; !operator {
		v.pulls++
	}
	return p, nil
}

func (v *valve) done(who string, p *pipe) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !p.operator {
		v.pulls--
	}
	if p.pulls--; p.pulls == 0 {
		delete(v.pipes, who)
	}
}

// underWay returns how many pulls there are.
func (v *valve) underWay() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.pulls
}

// send waits until so many bytes may be sent through the pipe.
func (v *valve) send(ctx context.Context, p *pipe, n int) error {
	if err := p.bytes.WaitN(ctx, n); err != nil {
		return err
	}
	return v.bytes.WaitN(ctx, n)
}

// overloaded returns err with a time to retry that is drawn for the caller.
func (s *Server) overloaded(err error) error {
	var e *wire.OverloadedError
	if errors.As(err, &e) {
		e.Retry = s.lead.Retry(time.Now())
		s.metrics.noteRefused(err)
		s.log.Warn("the server is overloaded: hosts are told to retry", "reason", e.Reason)
	}
	return err
}
