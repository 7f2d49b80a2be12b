package publish

import (
	"context"
	"errors"
	"fmt"

	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/internal/wire"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/store"
)

// base asks for the set's head and salt, and holds them against what is
// expected.
func (a *applier) base(ctx context.Context) (b base, err error) {
	err = a.retry(ctx, func() error {
		b, err = a.baseOnce(ctx)
		return err
	})
	if err != nil {
		return base{}, err
	}
	return b, a.expected(b)
}

func (a *applier) baseOnce(ctx context.Context) (base, error) {
	resp, err := a.server.Operator.GetHead(ctx, &espalierv1.GetHeadRequest{Set: string(a.o.Set)})
	if err = wire.FromStatus(err); errors.Is(err, store.ErrNotFound) {
		return base{}, nil
	}
	if err != nil {
		return base{}, err
	}
	if resp.GetForked() {
		return base{}, fmt.Errorf("set %s: its %w; nothing is committed until 'espalier epoch %s' lets all hosts follow what the server has, "+
			"or 'espalier restore %s FILE' a backup", a.o.Set, store.ErrForked, a.o.Set, a.o.Set)
	}
	head, err := wire.HeadFromWire(resp.GetHead())
	return base{exists: true, head: head, salt: resp.GetSalt()}, err
}

// commit carries out a plan in one step: all of it, or nothing. Its request id
// is its own, so that it can be made again if the connection breaks before the
// answer: the server does it only once.
func (a *applier) commit(ctx context.Context, p *plan, expect *desired.Position) (r Result, err error) {
	a.commits++
	terms := &espalierv1.CommitTerms{
		Set: string(a.o.Set), RequestId: fmt.Sprintf("%s-%d", a.request, a.commits), Why: a.o.Why,
	}
	if expect != nil {
		terms.Expect = wire.PositionToWire(*expect)
	}
	if a.o.Prune {
		terms.MaxDelete = &espalierv1.DeleteLimit{Count: a.limit.Count, Percent: a.limit.Percent, Prefix: a.limit.Prefix}
	}
	err = a.retry(ctx, func() error {
		r, err = a.commitOnce(ctx, p, terms)
		return err
	})
	return r, err
}

func (a *applier) commitOnce(ctx context.Context, p *plan, terms *espalierv1.CommitTerms) (Result, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // the server commits nothing of a stream that is given up
	stream, err := a.server.Operator.Commit(ctx)
	if err != nil {
		return Result{}, wire.FromStatus(err)
	}
	u := upload{stream: stream, frame: delta.NewFrameWriter(a.codec), req: &espalierv1.CommitRequest{Terms: terms}}
	if err := u.send(p, a.o.Progress); err != nil {
		return Result{}, err
	}
	a.o.Progress.report(PhaseCommit, 0, 0)
	resp, err := stream.CloseAndRecv()
	if err != nil {
		return Result{}, wire.FromStatus(err)
	}
	head, err := wire.HeadFromWire(resp.GetHead())
	if err != nil {
		return Result{}, err
	}
	r := Result{
		Head: head, Created: resp.GetCreated(), Updated: resp.GetUpdated(), Deleted: resp.GetDeleted(),
		Uploaded: p.created + p.updated, UploadedBytes: u.bytes,
	}
	r.Unchanged = a.unchanged(r)
	return r, nil
}

// upload sends the changes of a plan.
type upload struct {
	stream espalierv1.OperatorService_CommitClient
	frame  *delta.FrameWriter
	req    *espalierv1.CommitRequest // the next, without its frame
	bytes  uint64
	over   bool // the server has answered already
}

func (u *upload) send(p *plan, progress Progress) error {
	done, total := uint64(0), p.len()
	for c, err := range p.changes() {
		if err != nil {
			return err
		}
		if err := u.frame.Add(c); err != nil {
			return err
		}
		done++
		if !u.frame.Full() {
			continue
		}
		if err := u.flush(); err != nil || u.over {
			return err
		}
		progress.report(PhaseUpload, done, total)
	}
	if err := u.flush(); err != nil {
		return err
	}
	progress.report(PhaseUpload, total, total)
	return nil
}

// flush sends a message; the first one also if it has no changes.
func (u *upload) flush() error {
	if u.frame.Len() == 0 && u.req.Terms == nil {
		return nil
	}
	u.req.Frame = u.frame.Frame()
	u.bytes += uint64(len(u.req.Frame))
	err := u.stream.Send(u.req)
	u.req, u.over = &espalierv1.CommitRequest{}, err != nil
	return sent(err)
}
