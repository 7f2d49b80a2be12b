package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"

	"golang.org/x/sync/errgroup"

	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/internal/wire"
	espalierv1 "espalier/proto/espalier/v1"
)

// match asks the server which objects of the input it does not have as they are.
func (a *applier) match(ctx context.Context) (p *plan, err error) {
	err = a.retry(ctx, func() error {
		p, err = a.matchOnce(ctx)
		return err
	})
	return p, err
}

// matchOnce makes one call. Digests go out and answers come in side by side, so
// that neither end waits for the other to read.
func (a *applier) matchOnce(ctx context.Context) (*plan, error) {
	to := a.newPlanner()
	defer to.to.Close()
	group, ctx := errgroup.WithContext(ctx)
	stream, err := a.server.Operator.Match(ctx)
	if err != nil {
		return nil, wire.FromStatus(err)
	}
	group.Go(func() error { return a.sendDigests(stream) })
	group.Go(func() error { return a.readStates(stream, to) })
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return to.finish()
}

func (a *applier) sendDigests(stream espalierv1.OperatorService_MatchClient) error {
	seed := rand.Uint64()
	req := &espalierv1.MatchRequest{Set: string(a.o.Set), Seed: seed}
	frame := delta.NewFrameWriter(a.codec)
	send := func() error {
		req.Frame = frame.Frame()
		err := stream.Send(req)
		req = &espalierv1.MatchRequest{}
		return err
	}
	envelope := make(desired.Envelope, 1+delta.MatchWidth)
	for c, err := range a.in.objects.All() {
		if err != nil {
			return err
		}
		short := delta.MatchDigest(seed, c.Digest)
		copy(envelope[1:], short[:])
		if err := frame.Add(desired.Change{Key: c.Key, Envelope: envelope}); err != nil {
			return err
		}
		if frame.Full() {
			if err := send(); err != nil {
				return sent(err)
			}
		}
	}
	if frame.Len() > 0 {
		if err := send(); err != nil {
			return sent(err)
		}
	}
	return wire.FromStatus(stream.CloseSend())
}

// sent returns the error of a Send. io.EOF says only that the stream is over:
// what it ended with is received.
func sent(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return wire.FromStatus(err)
}

// The states of an object, as the server answers.
const (
	stateSame    = 0
	stateDiffers = 1
	stateMissing = 2
)

// readStates reads an answer for each object of the input.
func (a *applier) readStates(stream espalierv1.OperatorService_MatchClient, to *planner) error {
	var states []byte
	done, total := uint64(0), uint64(a.in.Len())
	for c, err := range a.in.objects.All() {
		if err != nil {
			return err
		}
		for len(states) == 0 {
			resp, err := stream.Recv()
			if err != nil {
				return wire.FromStatus(noEOF(err))
			}
			states = resp.GetStates()
		}
		switch states[0] {
		case stateSame:
		case stateDiffers:
			err = to.add(c.Key, Update)
		case stateMissing:
			err = to.add(c.Key, Create)
		default:
			err = fmt.Errorf("%w: an object in state %d", delta.ErrProtocol, states[0])
		}
		if err != nil {
			return err
		}
		states = states[1:]
		if done++; done%progressEvery == 0 || done == total {
			a.o.Progress.report(PhaseCompare, done, total)
		}
	}
	if len(states) > 0 {
		return fmt.Errorf("%w: answers to what was not asked", delta.ErrProtocol)
	}
	return ended(stream.Recv())
}

// ended returns nil if what was received last was the end of the stream.
func ended[M any](_ M, err error) error {
	switch {
	case err == nil:
		return fmt.Errorf("%w: a message after the last", delta.ErrProtocol)
	case errors.Is(err, io.EOF):
		return nil
	default:
		return wire.FromStatus(err)
	}
}

// noEOF returns err, or an error for a stream that ended too early.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: a stream that ends too early", delta.ErrProtocol)
	}
	return err
}
