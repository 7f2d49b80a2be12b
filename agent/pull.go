package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"

	"google.golang.org/grpc"

	"espalier/internal/delta"
	"espalier/internal/wire"
	"espalier/merkle"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/store"
)

// pull brings a mirror up to date by a stream, and after a break by another: as
// long as each brings something new, or PullAttempts times.
func (a *Agent) pull(ctx context.Context, m *mirror, s *SetReport) (trips int, err error) {
	k, err := openKeeper(m)
	if err != nil {
		return 0, err
	}
	for failures := 0; ; {
		have, err := k.have()
		if err != nil {
			return trips, err
		}
		r := delta.NewReceiver(a.codec, have, rand.Uint64)
		err = a.receive(ctx, r, k)
		stats := r.Stats()
		trips += stats.RoundTrips
		s.Mode = max(s.Mode, stats.Mode)
		s.Upserts += stats.Upserts
		s.Deletes += stats.Deletes
		if err == nil {
			return trips, nil
		}
		saved := k.save(ctx, r.Mark())
		if saved != nil && !errors.Is(err, saved) {
			return trips, errors.Join(err, saved)
		}
		if stats.Upserts+stats.Deletes > 0 {
			failures = 0
		}
		if failures++; failures == PullAttempts || !retryable(err) || ctx.Err() != nil {
			return trips, err
		}
		a.log.Info("a pull was cut; going on from what has come", "set", m.name, "error", err)
		sleep(ctx, backoff(failures))
	}
}

// retryable reports whether the connection failed, and not what it carried.
func retryable(err error) bool {
	return errors.Is(err, wire.ErrUnreachable) || errors.Is(err, io.ErrUnexpectedEOF)
}

// receive runs rounds until what was received is verified.
func (a *Agent) receive(ctx context.Context, r *delta.Receiver, k *keeper) error {
	for !r.Done() {
		if err := a.round(ctx, r, k); err != nil {
			if !errors.Is(err, delta.ErrTooDifferent) {
				return err
			}
			r.TooDifferent()
		}
	}
	return nil
}

// round runs one stream. Requests are sent by a goroutine of their own, so that
// both sides can send much at once without waiting for each other; it has ended
// when round returns.
func (a *Agent) round(ctx context.Context, r *delta.Receiver, k *keeper) error {
	open, err := r.Open()
	if err != nil {
		return err
	}
	call, silence := withSilence(ctx)
	requests := make(chan delta.Request, 256)
	var sending sync.WaitGroup
	defer func() {
		silence.stop()
		close(requests)
		sending.Wait()
	}()
	stream, err := a.client.Pull(call)
	if err != nil {
		return a.theirs(silence.explain(err))
	}
	sending.Go(func() { send(stream, requests) })
	requests <- open
	for {
		silence.listen()
		msg, err := stream.Recv()
		if err != nil {
			return a.theirs(silence.explain(noEOF(err)))
		}
		silence.heard()
		resp, err := wire.PullResponseFromWire(msg)
		if err != nil {
			return a.theirs(err)
		}
		if over, err := a.handle(ctx, call, r, k, resp, requests); over || err != nil {
			return err
		}
	}
}

// theirs returns an error of the server as such: what is corrupt over there says
// nothing of what is here.
func (a *Agent) theirs(err error) error {
	if errors.Is(err, store.ErrCorrupt) {
		return fmt.Errorf("pull from %s: %v", a.options.Server, err) //nolint:errorlint // ErrCorrupt stands for this host's files
	}
	return fmt.Errorf("pull from %s: %w", a.options.Server, err)
}

// send sends requests until they end. An error shows where responses are
// awaited.
func send(stream grpc.BidiStreamingClient[espalierv1.PullRequest, espalierv1.PullResponse], requests <-chan delta.Request) {
	var err error
	for req := range requests {
		if err == nil {
			err = stream.Send(wire.PullRequestToWire(req))
		}
	}
	_ = stream.CloseSend()
}

// noEOF returns err, or an error for a stream that ended too early.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// handle carries out all effects of one response. over ends the round. What is
// kept is kept under ctx, which outlives the call.
func (a *Agent) handle(ctx, call context.Context, r *delta.Receiver, k *keeper, resp delta.Response, requests chan<- delta.Request) (over bool, err error) {
	if resp.Begin != nil {
		if err := admit(k.mirror.Floor(), resp.Begin.Head); err != nil {
			return true, err
		}
	}
	e, err := k.ask(r, func(view merkle.Reader) (delta.Effects, error) { return r.Handle(view, resp) })
	for err == nil {
		for _, req := range e.Requests {
			select {
			case requests <- req:
			case <-call.Done():
				return true, context.Cause(call)
			}
		}
		if over, err = k.carryOut(ctx, r, e); over || err != nil || !e.More {
			break
		}
		e, err = k.ask(r, r.Continue)
	}
	stats := r.Stats()
	if p := a.options.Progress; p != nil && resp.Batch != nil && stats.Mode == delta.Full {
		p(k.name, stats.Upserts+stats.Deletes, stats.Head.Objects)
	}
	return over || r.Done(), err
}
