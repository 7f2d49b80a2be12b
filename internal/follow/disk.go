package follow

import (
	"context"
	"iter"

	"espalier/internal/desired"
	"espalier/merkle"
	"espalier/store"
)

// Disk is a host's data folder. What it returns and expects, and its errors, are
// as package store has them.
type Disk interface {
	// List returns the host's list of sets as last written, zero if it never was.
	List() (desired.List, error)
	WriteList(desired.List) error
	// Mirrored returns the names of the sets that are mirrored.
	Mirrored() ([]desired.Name, error)
	Open(set desired.Name) (Mirror, error)
}

// Mirror is a verified copy of one set; see store.Mirror.
type Mirror interface {
	Head() desired.Head
	Floor() desired.Revision
	Damaged() bool
	View(func(Snapshot) error) error
	Adopt(ctx context.Context, head desired.Head, changes iter.Seq2[desired.Change, error]) error
	// Staging returns what is staged; nil: nothing.
	Staging() (Staging, error)
	Stage(ctx context.Context, kind store.StageKind, salt uint64) (Staging, error)
	DiscardStaging() error
	NeedRoom(desired.Head) error
	Repair(context.Context) (damaged int, err error)
	Remove() error
	Close() error
}

// Staging is what is being received; see store.Staging.
type Staging interface {
	Salt() uint64
	Mark() []byte
	View(func(Snapshot) error) error
	Write(ctx context.Context, changes []desired.Change, mark []byte) error
	Promote(ctx context.Context, head desired.Head) error
}

// Snapshot is a mirror or a staging at one time.
type Snapshot interface {
	merkle.Reader
	Shape() merkle.Shape
}
