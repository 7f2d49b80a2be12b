package server

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/protobuf/proto"

	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/internal/lead"
	"espalier/internal/pki"
	"espalier/internal/wire"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/store"
)

// syncService serves agents.
type syncService struct {
	espalierv1.UnimplementedSyncServiceServer
	server *Server
}

// source is a snapshot as the sync conversation reads it.
type source struct{ *store.Snapshot }

func (s source) Touched(number uint64, limit int) (desired.Digest, [][]byte, bool, error) {
	t, ok, err := s.Snapshot.Touched(number, limit)
	return t.Root, t.Keys, ok, err
}

// sets is a store as a leader sees it.
type sets struct {
	*store.Store
	server *Server
}

func (s sets) View(set desired.Name, fn func(lead.Snapshot) error) error {
	return s.Store.View(set, func(snapshot *store.Snapshot) error { return fn(source{snapshot}) })
}

// Poll answers from the heads in memory; only a set that has moved is opened.
// Where there is nothing to say, and the host wants it, it waits for something.
func (s syncService) Poll(ctx context.Context, req *espalierv1.PollRequest) (*espalierv1.PollResponse, error) {
	caller := callerOf(ctx)
	who := lead.Asker{
		Host: caller.trusted || caller.Role == pki.RoleHost, Address: addressOf(ctx), MayUse: caller.mayUse,
		Foreign: func(set desired.Name) { s.server.logUnknown(ctx, set) },
	}
	host := desired.Name("")
	if caller.Role == pki.RoleHost {
		host = caller.Name
	}
	poll, err := wire.PollFromWire(req, host)
	if err != nil {
		return nil, wire.ToStatus(err)
	}
	if who.Host = who.Host && poll.Host != ""; who.Host {
		if err := s.server.valve.poll(host); err != nil {
			return nil, wire.ToStatus(s.server.overloaded(err))
		}
	}
	answer, waited := s.server.poll(ctx, who, poll)
	kind := "changed"
	switch {
	case waited:
		kind = "held"
	case len(answer.Sets) == 0 && answer.List == nil:
		kind = "idle"
	}
	s.server.metrics.polls.WithLabelValues(kind).Inc()
	return wire.PollAnswerToWire(answer), nil
}

// poll answers a poll once there is something to say, or it has waited for long
// enough.
func (s *Server) poll(ctx context.Context, who lead.Asker, p wire.Poll) (answer wire.PollAnswer, waited bool) {
	var waiter *lead.Waiter
	if who.Host && p.Hold > 0 {
		waiter = s.lead.Hold(p.Host, p.Held) // before looking, so that nothing is missed
	}
	if waiter == nil {
		p.Hold = 0
	} else {
		defer s.lead.Release(waiter)
	}
	answer, hold := s.lead.Poll(ctx, time.Now(), who, p)
	if hold == 0 {
		return answer, false
	}
	timer := time.NewTimer(hold)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return answer, true
		case <-s.stopping:
			answer.Held, answer.Next = false, s.lead.Parting()
			return answer, true
		case <-timer.C:
			answer, _ = s.lead.Poll(ctx, time.Now(), who, p)
			return answer, true
		case <-waiter.Woken:
		}
		if s.wakes.Wait(ctx) != nil {
			return answer, true
		}
		if answer, hold = s.lead.Poll(ctx, time.Now(), who, p); hold == 0 {
			return answer, true
		}
	}
}

// Pull runs the sender's half of the conversation. Each response is read in a
// transaction of its own, which is over before the response is sent: a slow
// reader holds nothing open.
func (s syncService) Pull(stream espalierv1.SyncService_PullServer) error {
	sender, caller := delta.NewSender(s.server.codec), callerOf(stream.Context())
	var set desired.Name
	send := stream.Send
	for !sender.Ended() {
		msg, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		req, err := wire.PullRequestFromWire(msg)
		if err == nil {
			err = sender.Receive(req)
		}
		if err != nil {
			return wire.ToStatus(err)
		}
		if req.Open != nil {
			set = req.Open.Set
			through, done, err := s.server.through(stream, set)
			if err != nil {
				return wire.ToStatus(err)
			}
			defer done()
			send = through
		}
		for sender.Pending() {
			if !caller.mayUse(set) { // any more: it has left the host's list
				return wire.ToStatus(errForeign(string(set)))
			}
			resp, err := s.server.lead.Respond(sender, set)
			if err == nil {
				err = send(wire.PullResponseToWire(resp))
			}
			if err != nil {
				return wire.ToStatus(err)
			}
		}
	}
	return nil
}

// through returns what sends the responses of a pull within the limits, and what
// is called in the end.
func (s *Server) through(stream espalierv1.SyncService_PullServer, set desired.Name) (send func(*espalierv1.PullResponse) error, done func(), err error) {
	ctx := stream.Context()
	c := callerOf(ctx)
	who := c.String()
	if c.trusted { // it may be a host, and would be of the set's name
		who = string(set)
	}
	operator := !c.trusted && c.Role != pki.RoleHost
	p, err := s.valve.pull(who, operator)
	if err != nil {
		return nil, nil, s.overloaded(err)
	}
	if operator {
		return stream.Send, func() { s.valve.done(who, p) }, nil
	}
	send = func(m *espalierv1.PullResponse) error {
		size := proto.Size(m)
		if err := s.valve.send(ctx, p, size); err != nil {
			return err
		}
		s.metrics.sent.Add(float64(size))
		return stream.Send(m)
	}
	return send, func() { s.valve.done(who, p) }, nil
}
