package server

import (
	"context"
	"errors"
	"io"

	"espalier/internal/delta"
	"espalier/internal/desired"
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

// Poll answers from the heads in memory; only a set that has moved is opened.
func (s syncService) Poll(ctx context.Context, req *espalierv1.PollRequest) (*espalierv1.PollResponse, error) {
	held, err := wire.PollRequestFromWire(req)
	if err != nil {
		return nil, wire.ToStatus(err)
	}
	var answers []wire.Answer
	room := delta.InlineBytes
	caller := callerOf(ctx)
	for i, h := range held {
		head, err := desired.Head{}, errForeign(string(h.Name))
		if caller.mayUse(h.Name) {
			head, err = s.server.store.Head(h.Name)
		}
		if err == nil && h.Current(head) {
			continue
		}
		a := s.server.answer(ctx, h, head, err, room)
		a.Index = i
		room -= len(a.Frame)
		answers = append(answers, a)
	}
	return wire.PollResponseToWire(s.server.options.PollInterval, answers), nil
}

// answer says how the agent gets from what it holds to head, in at most room
// bytes.
func (s *Server) answer(ctx context.Context, held delta.Held, head desired.Head, err error, room int) wire.Answer {
	if err == nil {
		var a wire.Answer
		err = s.store.View(held.Name, func(snapshot *store.Snapshot) (err error) {
			a, err = s.advise(snapshot, held, room)
			return err
		})
		if err == nil && a.Status == wire.StatusForked {
			err = s.fork(ctx, held, a.Head)
		}
		if err == nil {
			return a
		}
	}
	if errors.Is(err, store.ErrNotFound) {
		return wire.Answer{Status: wire.StatusUnknown}
	}
	if !errors.Is(err, store.ErrQuarantined) { // of which the store told once, and agents would with each poll
		s.log.Warn("a set cannot be served", "set", held.Name, "error", err)
	}
	return wire.Answer{Status: wire.StatusUnavailable}
}

// advise is answer, once the set is open.
func (s *Server) advise(snapshot *store.Snapshot, held delta.Held, room int) (wire.Answer, error) {
	head, src := snapshot.Head(), source{snapshot}
	forked, err := delta.Forked(src, held)
	if err != nil {
		return wire.Answer{}, err
	}
	if forked {
		return wire.Answer{Status: wire.StatusForked, Head: head}, nil
	}
	frame, ok, err := delta.Inline(s.codec, src, held)
	if ok && len(frame) <= room {
		return wire.Answer{Status: wire.StatusDelta, Number: head.Number, Root: head.Root, Frame: frame}, nil
	}
	return wire.Answer{Status: wire.StatusPull, Head: head}, err
}

// Pull runs the sender's half of the conversation. Each response is read in a
// transaction of its own, which is over before the response is sent: a slow
// reader holds nothing open.
func (s syncService) Pull(stream espalierv1.SyncService_PullServer) error {
	sender := delta.NewSender(s.server.codec)
	var set desired.Name
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
		}
		for sender.Pending() {
			if err := s.server.respond(stream, sender, set); err != nil {
				return wire.ToStatus(err)
			}
		}
	}
	return nil
}

func (s *Server) respond(stream espalierv1.SyncService_PullServer, sender *delta.Sender, set desired.Name) error {
	var resp delta.Response
	err := s.store.View(set, func(snapshot *store.Snapshot) (err error) {
		resp, err = sender.Next(source{snapshot})
		return err
	})
	if err != nil {
		return err
	}
	return stream.Send(wire.PullResponseToWire(resp))
}
