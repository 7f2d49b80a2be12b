package server

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"google.golang.org/protobuf/proto"

	"espalier/internal/desired"
	"espalier/internal/spool"
	"espalier/internal/wire"
	espalierv1 "espalier/proto/espalier/v1"
)

// upload is a commit as it comes in: first whole, on disk if it is large, then
// applied, so that a slow client holds no set locked.
type upload struct {
	server  *Server
	name    desired.Name
	terms   *espalierv1.CommitTerms // nil: nothing came yet
	changes *spool.Writer
	// sum is over the terms and frames: it tells a retry from another request
	// of the same id.
	sum hash.Hash
}

// Commit gathers the changes, and then makes them one commit.
func (o operatorService) Commit(stream espalierv1.OperatorService_CommitServer) error {
	u := upload{server: o.server, sum: sha256.New()}
	u.changes = spool.New(o.server.options.ScratchDir, spool.Options{Ordered: true, MemoryBytes: MaxUploadInMemory})
	defer u.changes.Close()
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = u.receive(req)
		}
		if err != nil {
			return wire.ToStatus(err)
		}
	}
	resp, err := u.apply(stream.Context())
	if err != nil {
		return wire.ToStatus(err)
	}
	return stream.SendAndClose(resp)
}

func (u *upload) receive(req *espalierv1.CommitRequest) error {
	if err := u.agree(req.GetTerms()); err != nil {
		return err
	}
	if len(req.GetFrame()) == 0 {
		return nil // terms may come alone
	}
	changes, err := u.server.codec.DecodeFrame(req.GetFrame())
	if err != nil {
		return err
	}
	u.sum.Write(req.GetFrame())
	for _, c := range changes {
		if err := u.changes.Add(c, 0); err != nil {
			return err
		}
	}
	return nil
}

// agree takes the terms, which come with the first message and no other.
func (u *upload) agree(terms *espalierv1.CommitTerms) error {
	switch {
	case (terms == nil) != (u.terms != nil):
		return fmt.Errorf("%w commit: its terms have to come once, in the first message", desired.ErrInvalid)
	case terms == nil:
		return nil
	}
	encoded, err := proto.MarshalOptions{Deterministic: true}.Marshal(terms)
	if err != nil {
		return fmt.Errorf("terms of a commit: %w", err)
	}
	u.sum.Write(encoded)
	u.terms = terms
	u.name, err = desired.ParseName(terms.GetSet())
	return err
}

// apply hands the whole upload to the store.
func (u *upload) apply(ctx context.Context) (*espalierv1.CommitResponse, error) {
	if u.terms == nil {
		return nil, fmt.Errorf("%w commit: it is empty", desired.ErrInvalid)
	}
	changes, err := u.changes.Finish()
	if err != nil {
		return nil, err
	}
	defer changes.Close()
	if u.terms.GetRestore() != nil {
		return u.restore(ctx, changes)
	}
	return u.commit(ctx, changes)
}

func (u *upload) commit(ctx context.Context, changes *spool.Sorted) (*espalierv1.CommitResponse, error) {
	c, err := wire.CommitFromWire(u.terms)
	if err != nil {
		return nil, err
	}
	c.Changes, c.Who = changes.All(), who(ctx)
	if c.Request.ID != "" {
		u.sum.Sum(c.Request.Digest[:0])
	}
	r, err := u.server.store.Commit(ctx, u.name, c)
	if changed := r.Created+r.Updated+r.Deleted > 0 && !r.Replayed; changed || err != nil {
		u.server.logChange(ctx, "commit", u.name, c.Why, r.Head, err, "created", r.Created, "updated", r.Updated, "deleted", r.Deleted)
	}
	return wire.ResultToWire(r), err
}

// restore makes the changes all there is, in a new epoch.
func (u *upload) restore(ctx context.Context, objects *spool.Sorted) (*espalierv1.CommitResponse, error) {
	r, err := wire.RestoreFromWire(u.terms)
	if err != nil {
		return nil, err
	}
	r.Objects, r.Who = objects.All(), who(ctx)
	r.Count, r.Bytes = uint64(objects.Len()), objects.Bytes()
	restored, err := u.server.store.Restore(ctx, u.name, r)
	if !r.DryRun {
		u.server.logChange(ctx, "restore", u.name, r.Why, restored.Head, err, "replaced", restored.Replaced.Number,
			"created", restored.Created, "updated", restored.Updated, "deleted", restored.Deleted)
	}
	return wire.RestoredToWire(restored), err
}
