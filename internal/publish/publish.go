// Package publish makes a set be what an input says: it is the client's side of
// "espalier apply".
//
// Read puts an input of any size and order in order, on disk. Apply then finds
// out what of it the server doesn't have yet, and commits that in one step. In a
// patch it sends keys and short digests, which the server matches; to prune, it
// compares the tree over its input with the server's, as an agent does, so that
// a million objects that have not changed cost a few kilobytes.
//
// A prune is checked: it is over only when the roots are the same, or, under a
// prefix, when a comparison under another seed finds nothing. It is committed
// against the revision that was compared; if the set has moved, everything is
// compared again. A patch trusts that keys that were found to be the
// same stay so until it commits: of two patches at once to one key, either may
// win.
package publish

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"

	"espalier/internal/delta"
	"espalier/internal/desired"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/store"
)

// Server is what Apply calls. Its connection allows messages of
// delta.MaxMessageBytes.
type Server struct {
	Operator espalierv1.OperatorServiceClient
	Sync     espalierv1.SyncServiceClient
}

// Options says what Apply is to do. Only Set is needed.
type Options struct {
	Set desired.Name
	// Prune deletes what is under the input's prefix but not in the input.
	// Without it, objects are only created and updated.
	Prune bool
	// DryRun finds out what would be done, and does nothing.
	DryRun bool
	// Expect is the revision that the set has to be at; number 0: the set must
	// not exist; nil: any.
	Expect *desired.Position
	// MaxDelete guards against deleting too much, of what is under the input's
	// prefix (its own Prefix is not used); nil: DefaultMaxDelete.
	MaxDelete *store.DeleteLimit
	// Why goes into the set's history.
	Why string
	// Each, unless nil, is called for each object that a dry run would create,
	// update or delete, or that a prune has deleted, in key order. The key is
	// valid during the call. An error ends Apply.
	Each func(action Action, key []byte) error
	// Progress, unless nil, is told how far the work has come.
	Progress Progress
	// Logger is told of what is tried again; nil: nobody is.
	Logger *slog.Logger
}

// Action is what happens to an object.
type Action int

// The actions.
const (
	Create Action = iota
	Update
	Delete
)

// String returns the word that people read.
func (a Action) String() string {
	switch a {
	case Create:
		return "create"
	case Update:
		return "update"
	default:
		return "delete"
	}
}

// Result is what Apply did, or what a dry run would have done.
type Result struct {
	// Head is the set's after it; in a dry run that of now, and zero if the set
	// does not exist.
	Head desired.Head
	// Created, Updated and Deleted count objects. Unchanged counts those of the
	// input that the set had already.
	Created, Updated, Deleted, Unchanged uint64
	// Uploaded counts the objects whose content was sent, UploadedBytes the
	// bytes of the frames that carried them.
	Uploaded, UploadedBytes uint64
}

// Apply makes the set be what the input says.
//
// Its errors match store.ErrConflict if the set is not at the revision that was
// expected, or moves faster than it can be compared; store.ErrTooManyDeletes if
// the guard holds it back, also in a dry run, whose Result is complete then;
// store.ErrCycle if objects would come after each other in a cycle, which a dry run
// finds where all of them are in the input;
// store.ErrNotFound if there is neither a set nor an object; and
// wire.ErrUnreachable if the connection broke more often than it is made again.
// What an error leaves behind is the set as it was, unless the connection broke
// during the commit, or the error says that something was committed, and the
// Result has its head. To apply the same input again is safe, and finds out.
func Apply(ctx context.Context, s Server, in *Input, o Options) (Result, error) {
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	o.Logger = o.Logger.With("set", o.Set)
	a := &applier{server: s, in: in, o: o, codec: delta.NewCodec(), request: rand.Text()}
	a.limit = DefaultMaxDelete
	if o.MaxDelete != nil {
		a.limit = *o.MaxDelete
	}
	a.limit.Prefix = []byte(in.prefix)
	defer a.close()
	if o.DryRun {
		if err := store.CheckOrder(in.objects.All()); err != nil {
			return Result{}, err
		}
	}
	if o.Prune {
		return a.prune(ctx)
	}
	return a.patch(ctx)
}

// applier is one run of Apply.
type applier struct {
	server  Server
	in      *Input
	o       Options
	codec   *delta.Codec
	limit   store.DeleteLimit
	request string // what the ids of its commits begin with
	commits int    // so far

	tree tree // over the input, once a salt is known
}

// base is the revision that an input is compared with.
type base struct {
	exists bool
	head   desired.Head
	salt   uint64
}

// patch creates and updates objects.
func (a *applier) patch(ctx context.Context) (Result, error) {
	if n := a.in.Len(); !a.o.DryRun && n > 0 && a.in.Bytes()+8*uint64(n) <= directBytes {
		return a.commit(ctx, a.everything(), a.o.Expect)
	}
	b, err := a.base(ctx)
	if err != nil {
		return Result{}, err
	}
	p := a.everything()
	if b.exists {
		if p, err = a.match(ctx); err != nil {
			return Result{}, err
		}
	}
	defer p.Close()
	switch {
	case a.o.DryRun:
		return a.planned(b, p), p.each(a.o.Each)
	case a.in.Len() == 0:
		return a.planned(b, p), a.needSet(b)
	default:
		return a.commit(ctx, p, a.o.Expect)
	}
}

// needSet returns an error for a set that does not exist, and will not.
func (a *applier) needSet(b base) error {
	if b.exists {
		return nil
	}
	return fmt.Errorf("%w: %q, and the input has no objects to make it of", store.ErrNotFound, a.o.Set)
}

// planned returns the result of p, had it been committed, but for the head.
func (a *applier) planned(b base, p *plan) Result {
	r := Result{Head: b.head, Created: p.created, Updated: p.updated, Deleted: p.deleted}
	r.Unchanged = a.unchanged(r)
	return r
}

// expected returns an error that matches store.ErrConflict unless b is at the
// revision that was asked for.
func (a *applier) expected(b base) error {
	want := a.o.Expect
	switch {
	case want == nil:
		return nil
	case !b.exists && *want != desired.Position{}:
		return fmt.Errorf("%w: it does not exist, expected was %v", store.ErrConflict, *want)
	case b.head.Number != want.Number || !want.Epoch.IsZero() && want.Epoch != b.head.Epoch:
		return fmt.Errorf("%w: it is at %v, expected was %v", store.ErrConflict, b.head.Position, *want)
	}
	return nil
}

func (a *applier) close() {
	if err := a.tree.close(); err != nil {
		a.o.Logger.Warn("close the tree", "error", err)
	}
}
