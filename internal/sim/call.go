package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/protobuf/proto"

	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/internal/follow"
	"espalier/internal/wire"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/store"
)

// errGone is what whoever runs on a machine that has crashed meets everywhere.
var errGone = errors.New("the machine is gone")

// network is the server as an agent's follower sees it: what package agent makes
// of gRPC, over a link. It is one incarnation's.
type network struct {
	agent *agent
	task  *task
}

// transfer returns what becomes of a message on the wire.
func transfer[M any, P interface {
	*M
	proto.Message
}](m P) P {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(err) // our own message
	}
	var got P = new(M)
	if err := proto.Unmarshal(b, got); err != nil {
		panic(err)
	}
	return got
}

// Poll implements follow.Server.
func (n network) Poll(_ context.Context, p wire.Poll) (answer wire.PollAnswer, err error) {
	a := n.agent
	c, err := a.link.dial(n.task)
	if err != nil {
		return answer, fmt.Errorf("poll: %w", err)
	}
	var resp *espalierv1.PollResponse
	over := false
	finish := func(r *espalierv1.PollResponse, e error) {
		if !over {
			over, resp, err = true, r, e
			n.task.wake()
		}
	}
	c.onEnd = append(c.onEnd, func() { finish(nil, errReset) })
	req := transfer(wire.PollToWire(p, true))
	lane, back := &lane{conn: c, direction: toServer}, &lane{conn: c, direction: toAgent}
	ask := func() {
		a.world.say("server", "is polled by %s", a.name)
		a.world.server.poll(a, req, c, func(r *espalierv1.PollResponse, e error) {
			back.send(func() { finish(r, e) })
		})
	}
	lane.send(ask)
	if a.link.random.Float64() < a.link.twice {
		lane.send(ask)
	}
	a.world.say(a.name, "polls")
	if deadline := a.world.now + p.Hold + silenceTimeout; !over {
		n.task.wait(deadline - a.world.now)
	}
	switch {
	case a.gone(n.task):
		return answer, errGone
	case !over:
		over, err = true, fmt.Errorf("%w: nothing came for too long", wire.ErrUnreachable)
	}
	if err == nil {
		a.damageAnswer(resp)
		answer, err = wire.PollAnswerFromWire(transfer(resp), len(p.Held))
	}
	if err != nil {
		return answer, fmt.Errorf("poll: %w", err)
	}
	a.world.say(a.name, "is told of %d sets, held %v", len(answer.Sets), answer.Held)
	return answer, nil
}

// damageAnswer flips a bit if one is due.
func (a *agent) damageAnswer(resp *espalierv1.PollResponse) {
	for _, s := range resp.GetSets() {
		if s.Status == espalierv1.SetAnswer_Status(wire.StatusDelta) {
			a.link.damage("a delta", s.Frame, s.Root)
		}
	}
}

// Pull implements follow.Server.
func (n network) Pull(context.Context) (follow.Stream, error) {
	c, err := n.agent.link.dial(n.task)
	if err != nil {
		return nil, theirs(err)
	}
	s := &stream{
		network: n, conn: c,
		there: lane{conn: c, direction: toServer}, back: lane{conn: c, direction: toAgent},
	}
	c.onEnd = append(c.onEnd, func() { s.end(errReset) })
	s.there.send(func() { n.agent.world.server.pull(n.agent, s) })
	return s, nil
}

// theirs returns an error of the server as such, as package agent does.
func theirs(err error) error {
	if errors.Is(err, store.ErrCorrupt) {
		return fmt.Errorf("pull: %v", err) //nolint:errorlint // ErrCorrupt stands for this host's disk
	}
	return fmt.Errorf("pull: %w", err)
}

// stream is one round of a pull: both ends of it.
type stream struct {
	network
	conn        *conn
	there, back lane
	set         desired.Name // of the round

	requests  []*espalierv1.PullRequest // have arrived
	cancelled bool                      // the agent has closed it
	handler   *task                     // nil: none has begun

	responses []*espalierv1.PullResponse // have arrived
	flying    int                        // responses that were sent and not read
	closed    bool                       // by the agent
	err       error                      // that the server, or the connection, ended it with
}

// end ends it for the agent, and for the handler if that still runs.
func (s *stream) end(err error) {
	if s.err == nil {
		s.err = err
	}
	s.wakeReader()
	if s.handler != nil {
		s.handler.wake()
	}
}

// wakeReader wakes the agent, unless it does something else by now.
func (s *stream) wakeReader() {
	if !s.closed {
		s.task.wake()
	}
}

// Send implements follow.Stream.
func (s *stream) Send(req delta.Request) error {
	a := s.agent
	if a.gone(s.task) {
		return errGone
	}
	if req.Open != nil {
		s.set = req.Open.Set
		a.world.say(a.name, "pulls %s: %v after %q", s.set, req.Open.Mode, req.Open.After)
	}
	m := transfer(wire.PullRequestToWire(req))
	a.link.damage("a request", m.GetNarrow(), m.GetLeaves())
	s.there.send(func() {
		s.requests = append(s.requests, m)
		if s.handler != nil {
			s.handler.wake()
		}
	})
	return nil
}

// Recv implements follow.Stream.
func (s *stream) Recv() (delta.Response, error) {
	a, w := s.agent, s.agent.world
	if a.link.sluggish > 0 {
		s.pause(time.Duration(a.link.random.Int64N(int64(a.link.sluggish) + 1)))
	}
	for deadline := w.now + silenceTimeout; len(s.responses) == 0 && s.err == nil && w.now < deadline && !a.gone(s.task); {
		s.task.wait(deadline - w.now)
	}
	switch {
	case a.gone(s.task):
		return delta.Response{}, errGone
	case len(s.responses) == 0 && s.err != nil:
		return delta.Response{}, theirs(s.err)
	case len(s.responses) == 0:
		return delta.Response{}, theirs(fmt.Errorf("%w: nothing came for too long", wire.ErrUnreachable))
	}
	m := s.responses[0]
	s.responses = s.responses[1:]
	s.flying--
	if s.handler != nil {
		s.handler.wake()
	}
	a.link.damage("a response", m.GetBatch().GetFrame(), m.GetBatch().GetParts(), m.GetDigests().GetData())
	resp, err := wire.PullResponseFromWire(transfer(m))
	if err != nil {
		return delta.Response{}, theirs(err)
	}
	w.oracle.received(a, s.set, resp)
	return resp, nil
}

// pause lets time pass for the agent, whatever wakes it.
func (s *stream) pause(d time.Duration) {
	for until := s.agent.world.now + d; s.agent.world.now < until && !s.agent.gone(s.task); {
		s.task.wait(until - s.agent.world.now)
	}
}

// Close implements follow.Stream.
func (s *stream) Close() {
	s.closed = true
	s.there.send(func() {
		s.cancelled = true
		if s.handler != nil {
			s.handler.wake()
		}
	})
}

// next returns the next request; false: there will be none.
func (s *stream) next() (*espalierv1.PullRequest, bool) {
	for len(s.requests) == 0 && !s.over() {
		s.handler.wait(time.Hour)
	}
	if s.over() {
		return nil, false
	}
	req := s.requests[0]
	s.requests = s.requests[1:]
	return req, true
}

// over reports whether nobody listens to the handler any more.
func (s *stream) over() bool { return s.cancelled || s.conn.ended || s.handler.dead }

// send sends a response once there is room; false: nobody listens.
func (s *stream) send(resp *espalierv1.PullResponse) bool {
	for s.flying >= window && !s.over() {
		s.handler.wait(time.Hour)
	}
	if s.over() {
		return false
	}
	m := transfer(resp)
	s.flying++
	s.back.send(func() {
		s.responses = append(s.responses, m)
		s.wakeReader()
	})
	return true
}

// finish ends the stream from the server's side; a clean end is one too early
// for the agent.
func (s *stream) finish(err error) {
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	s.back.send(func() { s.end(err) })
}
