package follow

import (
	"context"
	"errors"
	"testing"

	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/store"
)

// keep returns a keeper of a mirror without anything, with an empty staging.
func keep(t *testing.T) *keeper {
	t.Helper()
	m, err := store.OpenMirror(t.TempDir(), "s", store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	k, err := openKeeper(&Set{Name: "s", Mirror: mirror{m}}, func(f func()) { go f() }, Limits{}.orDefault())
	if err != nil {
		t.Fatal(err)
	}
	if err := k.stage(t.Context(), store.StageEmpty, 1); err != nil {
		t.Fatal(err)
	}
	return k
}

// mirror is a store.Mirror as a keeper of nothing sees it.
type mirror struct{ *store.Mirror }

func (m mirror) View(fn func(Snapshot) error) error {
	return m.Mirror.View(func(s *store.Snapshot) error { return fn(s) })
}
func (m mirror) Staging() (Staging, error) { return nil, nil }
func (m mirror) Stage(ctx context.Context, kind store.StageKind, salt uint64) (Staging, error) {
	s, err := m.Mirror.Stage(ctx, kind, salt)
	return staging{s}, err
}

type staging struct{ *store.Staging }

func (s staging) View(fn func(Snapshot) error) error {
	return s.Staging.View(func(snap *store.Snapshot) error { return fn(snap) })
}

// receive hands changes of those keys to the keeper, and returns the mark that
// covers them.
func (k *keeper) receive(keys ...string) delta.Mark {
	for _, key := range keys {
		k.pending = append(k.pending, desired.Change{Key: []byte(key), Envelope: desired.Envelope{0, 'x'}})
	}
	return delta.Mark{Mode: delta.Full, After: []byte(keys[len(keys)-1])}
}

// TestNoMarkPassesALostWrite has a write fail, with what it had: a later one
// would claim that it is there.
func TestNoMarkPassesALostWrite(t *testing.T) {
	k := keep(t)
	if err := k.flush(t.Context(), k.receive("a")); err != nil {
		t.Fatal(err)
	}
	if err := k.flush(t.Context(), k.receive("b", "\x00")); err != nil { // no such key
		t.Fatal(err)
	}
	mark := k.receive("c")
	if err := k.flush(t.Context(), mark); !errors.Is(err, desired.ErrInvalid) {
		t.Errorf("flush = %v, want what the one before ended with", err)
	}
	if err := k.save(t.Context(), mark); !errors.Is(err, desired.ErrInvalid) {
		t.Errorf("save = %v, want what the write ended with", err)
	}
	got, err := delta.DecodeMark(k.staging.Mark())
	if err != nil || string(got.After) != "a" || k.staging.(staging).Objects() != 1 {
		t.Errorf("%d objects are staged, up to %q, %v, want one, a", k.staging.(staging).Objects(), got.After, err)
	}
}

// TestWhatHasComeIsKept calls a pull off while its changes are on their way to
// the disk.
func TestWhatHasComeIsKept(t *testing.T) {
	k := keep(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := k.flush(ctx, k.receive("a")); err != nil {
		t.Fatal(err)
	}
	if err := k.save(ctx, k.receive("b")); err != nil {
		t.Fatal(err)
	}
	if n := k.staging.(staging).Objects(); n != 2 {
		t.Errorf("%d objects are staged, want 2", n)
	}
}

// TestUnwrittenStagingIsGivenUp: it says nothing of what to go on with.
func TestUnwrittenStagingIsGivenUp(t *testing.T) {
	k := keep(t)
	have, err := k.have()
	if err != nil || have.Mark != nil || k.staging != nil {
		t.Errorf("have = %+v, %v, want nothing staged", have, err)
	}
}

func TestSettle(t *testing.T) {
	changes := []desired.Change{
		{Key: []byte("b"), Envelope: desired.Envelope("1")},
		{Key: []byte("a"), Envelope: desired.Envelope("1")},
		{Key: []byte("b")},
		{Key: []byte("c")},
		{Key: []byte("b"), Envelope: desired.Envelope("3")},
	}
	got := ""
	for _, c := range settle(changes) {
		got += string(c.Key) + string(c.Envelope)
	}
	if want := "a1b3c"; got != want {
		t.Errorf("settle = %s, want %s", got, want)
	}
}
