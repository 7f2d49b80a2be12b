package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"

	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/internal/wire"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/store"
)

// operatorService serves those who publish.
type operatorService struct {
	espalierv1.UnimplementedOperatorServiceServer
	server *Server
}

// ListSets answers from the heads in memory.
func (o operatorService) ListSets(ctx context.Context, req *espalierv1.ListSetsRequest) (*espalierv1.ListSetsResponse, error) {
	limit := math.MaxInt
	if req.GetLimit() > 0 {
		limit = int(min(req.GetLimit(), MaxListedSets))
	}
	resp := &espalierv1.ListSetsResponse{}
	for _, h := range o.server.store.Heads() {
		if string(h.Name) <= req.GetAfter() || !callerOf(ctx).mayUse(h.Name) {
			continue
		}
		if resp.More = len(resp.Sets) == limit; resp.More {
			break
		}
		resp.Sets = append(resp.Sets, wire.SetToWire(h))
	}
	return resp, nil
}

func (o operatorService) GetHead(_ context.Context, req *espalierv1.GetHeadRequest) (*espalierv1.GetHeadResponse, error) {
	resp := &espalierv1.GetHeadResponse{}
	err := o.view(req.GetSet(), func(s *store.Snapshot) error {
		resp.Head, resp.Salt, resp.Forked = wire.HeadToWire(s.Head()), s.Shape().Salt, s.Forked() != nil
		return nil
	})
	return resp, wire.ToStatus(err)
}

// view calls fn with a snapshot of the set of that name.
func (o operatorService) view(set string, fn func(*store.Snapshot) error) error {
	name, err := desired.ParseName(set)
	if err != nil {
		return err
	}
	return o.server.store.View(name, fn)
}

func (o operatorService) GetObject(_ context.Context, req *espalierv1.GetObjectRequest) (*espalierv1.GetObjectResponse, error) {
	resp := &espalierv1.GetObjectResponse{}
	err := o.view(req.GetSet(), func(s *store.Snapshot) error {
		if err := desired.CheckKey(req.GetKey()); err != nil {
			return err
		}
		c, ok, err := s.Get(req.GetKey())
		if err == nil && !ok {
			err = fmt.Errorf("%w: %q in set %q", wire.ErrNoObject, req.GetKey(), req.GetSet())
		}
		resp.Envelope = append([]byte(nil), c.Envelope...)
		return err
	})
	return resp, wire.ToStatus(err)
}

// ListObjects reads a frame at a time, so that a slow reader holds no
// transaction open.
func (o operatorService) ListObjects(req *espalierv1.ListObjectsRequest, stream espalierv1.OperatorService_ListObjectsServer) error {
	if len(req.GetPrefix()) > desired.MaxKeyBytes {
		return wire.ToStatus(fmt.Errorf("%w prefix: %d bytes", desired.ErrInvalid, len(req.GetPrefix())))
	}
	until := desired.PrefixEnd(req.GetPrefix())
	frame := delta.NewFrameWriter(o.server.codec)
	for from, more := req.GetPrefix(), true; more; {
		var next []byte
		err := o.view(req.GetSet(), func(s *store.Snapshot) error {
			for row, err := range s.Rows(0, from, until) {
				if err != nil {
					return err
				}
				if frame.Full() {
					next = append([]byte(nil), row.Key...)
					return nil
				}
				envelope := append(desired.Envelope{0}, row.Digest[:]...)
				if err := frame.Add(desired.Change{Key: row.Key, Envelope: envelope}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return wire.ToStatus(err)
		}
		if err := stream.Send(&espalierv1.ListObjectsResponse{Frame: frame.Frame()}); err != nil {
			return err
		}
		from, more = next, next != nil
	}
	return nil
}

// Log reads a page at a time, so that a slow reader holds no transaction open.
func (o operatorService) Log(req *espalierv1.LogRequest, stream espalierv1.OperatorService_LogServer) error {
	left := req.GetLimit()
	if left == 0 {
		left = math.MaxUint64
	}
	var last desired.Position
	for left > 0 {
		page := int(min(left, MaxLoggedRevisions))
		resp := &espalierv1.LogResponse{}
		err := o.view(req.GetSet(), func(s *store.Snapshot) error {
			if epoch := s.Head().Epoch; !last.Epoch.IsZero() && last.Epoch != epoch {
				return fmt.Errorf("%w: epoch %v has begun meanwhile", store.ErrConflict, epoch)
			}
			for e, err := range s.Log(last.Number) {
				if err != nil {
					return err
				}
				resp.Entries = append(resp.Entries, wire.LogEntryToWire(e))
				if last = e.Position; len(resp.Entries) == page {
					break
				}
			}
			return nil
		})
		if err != nil {
			return wire.ToStatus(err)
		}
		if err := stream.Send(resp); err != nil {
			return err
		}
		if len(resp.Entries) < page {
			return nil
		}
		left -= uint64(page)
	}
	return nil
}

// Match answers each frame of keys and short digests with a byte for each: 0
// the same, 1 differs, 2 missing.
func (o operatorService) Match(stream espalierv1.OperatorService_MatchServer) error {
	var set string
	var seed uint64
	for first := true; ; first = false {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if first {
			set, seed = req.GetSet(), req.GetSeed()
		}
		changes, err := o.server.codec.DecodeFrame(req.GetFrame())
		if err != nil {
			return wire.ToStatus(err)
		}
		states := make([]byte, len(changes))
		err = o.view(set, func(s *store.Snapshot) error { return match(s, seed, changes, states) })
		if err != nil {
			return wire.ToStatus(err)
		}
		if err := stream.Send(&espalierv1.MatchResponse{States: states}); err != nil {
			return err
		}
	}
}

func match(s *store.Snapshot, seed uint64, changes []desired.Change, states []byte) error {
	for i, c := range changes {
		states[i] = 2
		for row, err := range s.Rows(0, c.Key, append(c.Key[:len(c.Key):len(c.Key)], 0)) {
			if err != nil {
				return err
			}
			short := delta.MatchDigest(seed, row.Digest)
			if states[i] = 1; !c.Deleted() && string(c.Envelope[1:]) == string(short[:]) {
				states[i] = 0
			}
		}
	}
	return nil
}

func (o operatorService) DeleteSet(ctx context.Context, req *espalierv1.DeleteSetRequest) (*espalierv1.DeleteSetResponse, error) {
	name, err := desired.ParseName(req.GetSet())
	if err != nil {
		return nil, wire.ToStatus(err)
	}
	expect, err := wire.ExpectFromWire(req.GetExpect())
	if err != nil {
		return nil, wire.ToStatus(err)
	}
	left, err := o.server.store.DeleteAt(ctx, name, expect)
	o.server.logChange(ctx, "delete set", name, req.GetWhy(), left, err)
	resp := &espalierv1.DeleteSetResponse{}
	if !left.Epoch.IsZero() {
		resp.Head = wire.HeadToWire(left)
	}
	return resp, wire.ToStatus(err)
}

func (o operatorService) Renew(ctx context.Context, req *espalierv1.RenewRequest) (*espalierv1.RenewResponse, error) {
	name, err := desired.ParseName(req.GetSet())
	if err != nil {
		return nil, wire.ToStatus(err)
	}
	head, err := o.server.store.Renew(ctx, name, who(ctx), req.GetWhy())
	o.server.logChange(ctx, "new epoch", name, req.GetWhy(), head, err)
	if err != nil {
		return nil, wire.ToStatus(err)
	}
	return &espalierv1.RenewResponse{Head: wire.HeadToWire(head)}, nil
}

func (o operatorService) Compact(ctx context.Context, req *espalierv1.CompactRequest) (*espalierv1.CompactResponse, error) {
	name, err := desired.ParseName(req.GetSet())
	if err != nil {
		return nil, wire.ToStatus(err)
	}
	r, err := o.server.store.Compact(ctx, name, store.CompactOptions{DropHistory: req.GetDropHistory()})
	if req.GetDropHistory() { // else nothing has changed but the file's size
		head, _ := o.server.store.Head(name) // zero where it can't be read
		o.server.logChange(ctx, "drop history", name, "", head, err)
	}
	return &espalierv1.CompactResponse{BytesBefore: uint64(r.Before), BytesAfter: uint64(r.After)}, wire.ToStatus(err)
}

// Check sends progress by a goroutine of its own, which has ended when Check
// returns: a set is checked in one transaction, which must not wait for a client.
func (o operatorService) Check(req *espalierv1.CheckRequest, stream espalierv1.OperatorService_CheckServer) error {
	name, err := desired.ParseName(req.GetSet())
	if err != nil {
		return wire.ToStatus(err)
	}
	progress := make(chan *espalierv1.CheckResponse, 1)
	var sending sync.WaitGroup
	sending.Go(func() {
		for m := range progress {
			_ = stream.Send(m) // where it fails, the stream's context ends the check
		}
	})
	report, err := o.server.store.Check(stream.Context(), name, func(done, total uint64) {
		select {
		case progress <- &espalierv1.CheckResponse{Done: done, Total: total}:
		default: // the client is slow, and misses this one
		}
	})
	close(progress)
	sending.Wait()
	if err != nil {
		return wire.ToStatus(err)
	}
	m := &espalierv1.CheckReport{Head: wire.HeadToWire(report.Head), Problems: report.Found}
	for _, p := range report.Problems {
		m.Details = append(m.Details, p.Where+": "+p.What)
	}
	return stream.Send(&espalierv1.CheckResponse{Report: m})
}
