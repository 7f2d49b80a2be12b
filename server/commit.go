package server

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"

	"google.golang.org/protobuf/proto"

	"espalier/internal/desired"
	"espalier/internal/wire"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/store"
)

// upload is a commit as it comes in: first whole, then applied, so that a slow
// client holds no set locked.
type upload struct {
	terms   *espalierv1.CommitTerms
	name    desired.Name
	sum     hash.Hash // over the terms and frames: tells a retry from another request
	changes []desired.Change
	bytes   int
}

// Commit gathers the changes, and then makes them one commit.
func (o operatorService) Commit(stream espalierv1.OperatorService_CommitServer) error {
	u := upload{sum: sha256.New()}
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = u.receive(o.server, req)
		}
		if err != nil {
			return wire.ToStatus(err)
		}
	}
	resp, err := u.commit(stream.Context(), o.server.store)
	if err != nil {
		return wire.ToStatus(err)
	}
	return stream.SendAndClose(resp)
}

func (u *upload) receive(s *Server, req *espalierv1.CommitRequest) error {
	if terms := req.GetTerms(); terms != nil {
		if u.terms != nil {
			return fmt.Errorf("%w commit: its terms come twice", desired.ErrInvalid)
		}
		var err error
		if u.name, err = desired.ParseName(terms.GetSet()); err != nil {
			return err
		}
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(terms)
		if err != nil {
			return err
		}
		u.terms = terms
		u.sum.Write(b)
	}
	if u.terms == nil {
		return fmt.Errorf("%w commit: its first message has no terms", desired.ErrInvalid)
	}
	changes, err := s.codec.DecodeFrame(req.GetFrame())
	if err != nil {
		return err
	}
	u.sum.Write(req.GetFrame())
	u.changes = append(u.changes, changes...)
	return nil
}

func (u *upload) all() iter.Seq2[desired.Change, error] {
	return func(yield func(desired.Change, error) bool) {
		for _, c := range u.changes {
			if !yield(c, nil) {
				return
			}
		}
	}
}

func (u *upload) commit(ctx context.Context, s *store.Store) (*espalierv1.CommitResponse, error) {
	if u.terms == nil {
		return nil, fmt.Errorf("%w commit: it is empty", desired.ErrInvalid)
	}
	c := store.Commit{Changes: u.all(), Why: u.terms.GetWhy(), Request: store.Request{ID: u.terms.GetRequestId()}}
	if c.Request.ID != "" {
		u.sum.Sum(c.Request.Digest[:0])
	}
	if expect := u.terms.GetExpect(); expect != nil {
		p, err := wire.PositionFromWire(expect)
		if err != nil {
			return nil, err
		}
		c.Expect = &p
	}
	if l := u.terms.GetMaxDelete(); l != nil {
		c.MaxDelete = &store.DeleteLimit{Count: l.GetCount(), Percent: l.GetPercent(), Prefix: l.GetPrefix()}
	}
	r, err := s.Commit(ctx, u.name, c)
	if err != nil {
		return nil, err
	}
	return &espalierv1.CommitResponse{
		Head: wire.HeadToWire(r.Head), Created: r.Created, Updated: r.Updated, Deleted: r.Deleted,
		Unchanged: r.Unchanged, Missing: r.Missing, Replayed: r.Replayed,
	}, nil
}
