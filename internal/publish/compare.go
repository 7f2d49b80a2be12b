package publish

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	"golang.org/x/sync/errgroup"

	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/internal/spool"
	"espalier/internal/wire"
	"espalier/merkle"
	espalierv1 "espalier/proto/espalier/v1"
)

var (
	// errMoved: the set is not what it was when the comparison began.
	errMoved = errors.New("the set has moved")
	// errMissed: two short digests were equal by chance, and hid a difference.
	errMissed = errors.New("a comparison found nothing, but the roots differ")
)

// difference plans what makes the set be the input. b becomes the revision that
// was compared; it must not become another one if pinned.
func (a *applier) difference(ctx context.Context, b *base, pinned bool) (*plan, error) {
	if !b.exists {
		return a.everything(), nil
	}
	if err := a.tree.build(a.in.objects, b.salt); err != nil {
		return nil, err
	}
	whole := a.in.prefix == ""
	root := a.tree.Root().Digest
	if whole && root == b.head.Root {
		return a.newPlanner().finish() // nothing
	}
	var p *plan
	var head desired.Head
	err := a.retry(ctx, func() (err error) {
		p, head, err = a.compareOnce(ctx, b)
		return err
	})
	if err != nil {
		return nil, err
	}
	if head.Revision != b.head.Revision && pinned {
		err = errMoved
	} else if b.head = head; !pinned {
		err = a.expected(*b)
	}
	if err == nil && whole && p.len() == 0 && root != head.Root {
		err = errMissed
	}
	if err != nil {
		p.Close() //nolint:errcheck // the first error is the one to tell
		return nil, err
	}
	return p, nil
}

// compareOnce runs one comparison and returns its findings, and the head that
// they are about.
func (a *applier) compareOnce(ctx context.Context, b *base) (*plan, desired.Head, error) {
	c := comparison{a: a, to: a.newPlanner(), salt: b.salt}
	defer c.to.to.Close()
	have := delta.Have{Set: a.o.Set, Salt: b.salt}
	have.From, have.Until = prefixRange(a.in.prefix)
	c.receiver = delta.NewComparer(a.codec, have, rand.Uint64)
	if err := c.run(ctx); err != nil {
		return nil, desired.Head{}, err
	}
	p, err := c.to.finish()
	return p, c.head, err
}

// comparison is one stream.
type comparison struct {
	a        *applier
	receiver *delta.Receiver
	to       *planner
	salt     uint64
	head     desired.Head // at the beginning

	stream   espalierv1.SyncService_PullClient
	requests []delta.Request // to be sent
}

// run holds the conversation. One goroutine sends and one receives, so that both
// ends can have much under way without waiting for each other; both have ended
// when it returns.
func (c *comparison) run(ctx context.Context) error {
	open, err := c.receiver.Open()
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	if c.stream, err = c.a.server.Sync.Pull(ctx); err != nil {
		return wire.FromStatus(err)
	}
	c.requests = []delta.Request{open}
	requests, responses := make(chan delta.Request), make(chan delta.Response)
	group.Go(func() error { return c.send(requests) })
	group.Go(func() error { return c.receive(ctx, responses) })
	group.Go(func() error {
		defer close(requests)
		return c.converse(ctx, requests, responses)
	})
	return group.Wait()
}

func (c *comparison) send(requests <-chan delta.Request) error {
	for req := range requests {
		if err := c.stream.Send(wire.PullRequestToWire(req)); err != nil {
			return sent(err)
		}
	}
	return wire.FromStatus(c.stream.CloseSend())
}

func (c *comparison) receive(ctx context.Context, responses chan<- delta.Response) error {
	for {
		msg, err := c.stream.Recv()
		if err != nil {
			return wire.FromStatus(noEOF(err))
		}
		resp, err := wire.PullResponseFromWire(msg)
		if err != nil {
			return err
		}
		select {
		case responses <- resp:
		case <-ctx.Done():
			return ctx.Err()
		}
		if resp.End != nil {
			return ended(c.stream.Recv())
		}
	}
}

// converse hands responses to the receiver and requests to send, whichever can
// go on.
func (c *comparison) converse(ctx context.Context, requests chan<- delta.Request, responses <-chan delta.Response) error {
	for !c.receiver.Done() {
		var next delta.Request
		var out chan<- delta.Request
		if len(c.requests) > 0 {
			next, out = c.requests[0], requests
		}
		select {
		case out <- next:
			c.requests = c.requests[1:]
		case resp := <-responses:
			if err := c.handle(resp); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (c *comparison) handle(resp delta.Response) error {
	switch {
	case resp.Begin != nil && resp.Begin.Salt != c.salt:
		return fmt.Errorf("%w: it was made anew", errMoved)
	case resp.Begin != nil:
		c.head = resp.Begin.Head
	case resp.End != nil && resp.End.Head.Number != 0 && resp.End.Head.Revision != c.head.Revision:
		return fmt.Errorf("%w: from %v to %v", errMoved, c.head.Position, resp.End.Head.Position)
	}
	view := c.a.tree
	e, err := c.receiver.Handle(view, resp)
	for {
		if err != nil {
			return err
		}
		if err := c.keep(e); err != nil || !e.More {
			return err
		}
		e, err = c.receiver.Continue(view)
	}
}

func (c *comparison) keep(e delta.Effects) error {
	c.requests = append(c.requests, e.Requests...)
	for _, d := range e.Differences {
		if err := c.to.add(d.Key, actions[d.Kind]); err != nil {
			return err
		}
	}
	if len(e.Differences) > 0 {
		c.a.o.Progress.report(PhaseCompare, c.to.plan.len(), 0)
	}
	return nil
}

// actions say what to do about a difference.
var actions = [...]Action{delta.OnlyOurs: Create, delta.OnlyTheirs: Delete, delta.Differs: Update}

// tree is the tree over the input, under one salt.
type tree struct {
	*spool.Tree // nil: not yet
	salt        uint64
}

func (t *tree) build(s *spool.Sorted, salt uint64) error {
	if t.Tree != nil && t.salt == salt {
		return nil
	}
	if err := t.close(); err != nil {
		return err
	}
	var err error
	t.salt = salt
	t.Tree, err = s.Tree(merkle.Shape{Salt: salt})
	return err
}

func (t *tree) close() error {
	if t.Tree == nil {
		return nil
	}
	err := t.Close()
	t.Tree = nil
	return err
}
