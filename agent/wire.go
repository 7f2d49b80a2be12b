package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"espalier/internal/delta"
	"espalier/internal/follow"
	"espalier/internal/wire"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/store"
)

// orchestrator is the server as a follower sees it.
type orchestrator struct{ *Agent }

// Poll implements follow.Server. It asks one server after the other until one
// answers.
func (o orchestrator) Poll(ctx context.Context, p wire.Poll) (wire.PollAnswer, error) {
	for tried := 1; ; tried++ {
		answer, err := o.ask(ctx, p)
		if tried == len(o.links) || !errors.Is(err, wire.ErrUnreachable) || ctx.Err() != nil {
			return answer, err
		}
		o.failOver()
	}
}

func (o orchestrator) ask(ctx context.Context, p wire.Poll) (wire.PollAnswer, error) {
	call, silence := withSilence(ctx, p.Hold+CallTimeout)
	defer silence.stop()
	answer, err := wire.Ask(call, o.links[0], p, o.identity == nil)
	if err != nil {
		err = fmt.Errorf("poll %s: %w", o.links[0].address, silence.explain(err))
		return answer, o.freshen(err)
	}
	return answer, nil
}

// Pull implements follow.Server. It is of the server that the last poll was
// answered by.
func (o orchestrator) Pull(ctx context.Context) (follow.Stream, error) {
	s := &stream{server: o.links[0].address, requests: make(chan delta.Request, 256)}
	s.call, s.silence = withSilence(ctx, CallTimeout)
	var err error
	if s.pull, err = espalierv1.NewSyncServiceClient(o.links[0]).Pull(s.call); err != nil {
		err = s.theirs(s.silence.explain(err))
		s.silence.stop()
		return nil, o.freshen(err)
	}
	s.sending.Go(s.send)
	return s, nil
}

// stream is one round of a pull. Requests are sent by a goroutine of their own,
// so that both sides can send much at once without waiting for each other.
type stream struct {
	pull     espalierv1.SyncService_PullClient
	server   string
	call     context.Context //nolint:containedctx // it is the stream's own, and ends with it
	silence  *silence
	requests chan delta.Request
	sending  sync.WaitGroup
}

// Send implements follow.Stream.
func (s *stream) Send(req delta.Request) error {
	select {
	case s.requests <- req:
		return nil
	case <-s.call.Done():
		return s.theirs(s.silence.explain(context.Cause(s.call)))
	}
}

// send sends requests until they end. An error shows where responses are
// awaited.
func (s *stream) send() {
	var err error
	for req := range s.requests {
		if err == nil {
			err = s.pull.Send(wire.PullRequestToWire(req))
		}
	}
	_ = s.pull.CloseSend()
}

// Recv implements follow.Stream.
func (s *stream) Recv() (delta.Response, error) {
	s.silence.listen()
	msg, err := s.pull.Recv()
	s.silence.heard()
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return delta.Response{}, s.theirs(s.silence.explain(err))
	}
	resp, err := wire.PullResponseFromWire(msg)
	if err != nil {
		return delta.Response{}, s.theirs(err)
	}
	return resp, nil
}

// Close implements follow.Stream.
func (s *stream) Close() {
	s.silence.stop()
	close(s.requests)
	s.sending.Wait()
}

// theirs returns an error of the server as such: what is corrupt over there says
// nothing of what is here.
func (s *stream) theirs(err error) error {
	if errors.Is(err, store.ErrCorrupt) {
		return fmt.Errorf("pull from %s: %v", s.server, err) //nolint:errorlint // ErrCorrupt stands for this host's files
	}
	return fmt.Errorf("pull from %s: %w", s.server, err)
}
