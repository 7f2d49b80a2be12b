package agent

import (
	"context"
	"log/slog"

	"espalier/internal/desired"
	"espalier/internal/follow"
	"espalier/store"
)

// disk is the data folder as a follower sees it.
type disk struct {
	dir   string
	log   *slog.Logger
	probe func(ctx context.Context, path string) error
}

func (d disk) List() (desired.List, error)       { return store.ReadList(d.dir) }
func (d disk) WriteList(l desired.List) error    { return store.WriteList(d.dir, l) }
func (d disk) Mirrored() ([]desired.Name, error) { return store.Mirrors(d.dir) }
func (d disk) Open(set desired.Name) (follow.Mirror, error) {
	m, err := store.OpenMirror(d.dir, set, store.Options{Logger: d.log, Probe: d.probe})
	if err != nil {
		return nil, err
	}
	return mirror{m}, nil
}

// mirror is a store's as a follower sees it.
type mirror struct{ *store.Mirror }

// mirrorOf returns the store's mirror of a set.
func mirrorOf(s *follow.Set) *store.Mirror { return s.Mirror.(mirror).Mirror }

func (m mirror) View(fn func(follow.Snapshot) error) error {
	return m.Mirror.View(func(s *store.Snapshot) error { return fn(s) })
}

func (m mirror) Staging() (follow.Staging, error) { return stagingOf(m.Mirror.Staging()) }

func (m mirror) Stage(ctx context.Context, kind store.StageKind, salt uint64) (follow.Staging, error) {
	return stagingOf(m.Mirror.Stage(ctx, kind, salt))
}

// staging is a store's as a follower sees it.
type staging struct{ *store.Staging }

func stagingOf(s *store.Staging, err error) (follow.Staging, error) {
	if s == nil || err != nil {
		return nil, err
	}
	return staging{s}, nil
}

func (s staging) View(fn func(follow.Snapshot) error) error {
	return s.Staging.View(func(snapshot *store.Snapshot) error { return fn(snapshot) })
}
