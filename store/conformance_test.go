package store_test

import (
	"context"
	"testing"

	"espalier/internal/delta"
	"espalier/internal/desired"
	agentside "espalier/internal/follow"
	"espalier/store"
	"espalier/store/storetest"
)

// conformingSets is a store as the suite sees it.
type conformingSets struct{ *store.Store }

func (s conformingSets) View(set desired.Name, fn func(delta.Source) error) error {
	return s.Store.View(set, func(snapshot *store.Snapshot) error { return fn(conformingSource{snapshot}) })
}

type conformingSource struct{ *store.Snapshot }

func (s conformingSource) Touched(number uint64, limit int) (desired.Digest, [][]byte, bool, error) {
	t, ok, err := s.Snapshot.Touched(number, limit)
	return t.Root, t.Keys, ok, err
}

func (s conformingSets) Fork(ctx context.Context, set desired.Name, p desired.Position) error {
	_, err := s.Store.Fork(ctx, set, p)
	return err
}

func TestSetsConform(t *testing.T) {
	storetest.RunSets(t, func(t *testing.T) (storetest.Sets, func() storetest.Sets) {
		dir := t.TempDir()
		s := openStore(t, dir, quiet)
		return conformingSets{s}, func() storetest.Sets {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = openStore(t, dir, quiet)
			return conformingSets{s}
		}
	})
}

// conformingDisk is a data folder as the suite sees it; see package agent.
type conformingDisk struct {
	dir     string
	options store.Options
}

func (d conformingDisk) List() (desired.List, error)       { return store.ReadList(d.dir) }
func (d conformingDisk) WriteList(l desired.List) error    { return store.WriteList(d.dir, l) }
func (d conformingDisk) Mirrored() ([]desired.Name, error) { return store.Mirrors(d.dir) }
func (d conformingDisk) Open(set desired.Name) (agentside.Mirror, error) {
	m, err := store.OpenMirror(d.dir, set, d.options)
	if err != nil {
		return nil, err
	}
	return conformingMirror{m}, nil
}

type conformingMirror struct{ *store.Mirror }

func (m conformingMirror) View(fn func(agentside.Snapshot) error) error {
	return m.Mirror.View(func(s *store.Snapshot) error { return fn(s) })
}

func (m conformingMirror) Staging() (agentside.Staging, error) {
	return conformingStagingOf(m.Mirror.Staging())
}

func (m conformingMirror) Stage(ctx context.Context, kind store.StageKind, salt uint64) (agentside.Staging, error) {
	return conformingStagingOf(m.Mirror.Stage(ctx, kind, salt))
}

type conformingStaging struct{ *store.Staging }

func conformingStagingOf(s *store.Staging, err error) (agentside.Staging, error) {
	if s == nil || err != nil {
		return nil, err
	}
	return conformingStaging{s}, nil
}

func (s conformingStaging) View(fn func(agentside.Snapshot) error) error {
	return s.Staging.View(func(snapshot *store.Snapshot) error { return fn(snapshot) })
}

func TestMirrorsConform(t *testing.T) {
	const most = 40
	storetest.RunMirrors(t, most, func(t *testing.T) (agentside.Disk, func() agentside.Disk) {
		d := conformingDisk{dir: t.TempDir(), options: store.Small(quiet, most)}
		return d, func() agentside.Disk { return d }
	})
}
