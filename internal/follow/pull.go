package follow

import (
	"context"
	"errors"
	"io"

	"espalier/internal/delta"
	"espalier/internal/pace"
	"espalier/internal/wire"
	"espalier/merkle"
)

// pull brings a mirror up to date by a stream, and after a break by another: as
// long as each brings something new, or PullAttempts times.
func (f *Follower) pull(ctx context.Context, set *Set, s *SetReport) (trips int, err error) {
	k, err := openKeeper(set, f.options.Go, f.options.Limits)
	if err != nil {
		return 0, err
	}
	for failures := 0; ; {
		have, err := k.have()
		if err != nil {
			return trips, err
		}
		r := delta.NewReceiver(f.codec, have, f.options.Random.Uint64)
		err = f.receive(ctx, r, k)
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
		f.log.Info("a pull was cut; going on from what has come", "set", set.Name, "error", err)
		f.options.Clock.Sleep(ctx, pace.Backoff(failures, f.options.Random))
	}
}

// retryable reports whether the connection failed, and not what it carried.
func retryable(err error) bool {
	return errors.Is(err, wire.ErrUnreachable) || errors.Is(err, io.ErrUnexpectedEOF)
}

// receive runs rounds until what was received is verified.
func (f *Follower) receive(ctx context.Context, r *delta.Receiver, k *keeper) error {
	for !r.Done() {
		if err := f.round(ctx, r, k); err != nil {
			if !errors.Is(err, delta.ErrTooDifferent) {
				return err
			}
			r.TooDifferent()
		}
	}
	return nil
}

// round runs one stream.
func (f *Follower) round(ctx context.Context, r *delta.Receiver, k *keeper) error {
	open, err := r.Open()
	if err != nil {
		return err
	}
	stream, err := f.options.Server.Pull(ctx)
	if err != nil {
		return err
	}
	defer stream.Close()
	if err := stream.Send(open); err != nil {
		return err
	}
	for {
		resp, err := stream.Recv()
		if err != nil {
			return err
		}
		if over, err := f.handle(ctx, stream, r, k, resp); over || err != nil {
			return err
		}
	}
}

// handle carries out all effects of one response. over ends the round.
func (f *Follower) handle(ctx context.Context, stream Stream, r *delta.Receiver, k *keeper, resp delta.Response) (over bool, err error) {
	if resp.Begin != nil {
		if err := admit(k.set.Floor(), resp.Begin.Head); err != nil {
			return true, err
		}
	}
	e, err := k.ask(r, func(view merkle.Reader) (delta.Effects, error) { return r.Handle(view, resp) })
	for err == nil {
		for _, req := range e.Requests {
			if err := stream.Send(req); err != nil {
				return true, err
			}
		}
		if over, err = k.carryOut(ctx, r, e); over || err != nil || !e.More {
			break
		}
		e, err = k.ask(r, r.Continue)
	}
	stats := r.Stats()
	if p := f.options.Progress; p != nil && resp.Batch != nil && stats.Mode == delta.Full {
		p(k.set.Name, stats.Upserts+stats.Deletes, stats.Head.Objects)
	}
	return over || r.Done(), err
}
