package memory

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"slices"

	"espalier/internal/desired"
	"espalier/internal/follow"
	"espalier/merkle"
	"espalier/store"
)

// Staging is a follow.Staging.
type Staging struct{ m *Mirror }

func (m *Mirror) stagingName() string { return stagingPrefix + m.name }

// Staging implements follow.Mirror.
func (m *Mirror) Staging() (follow.Staging, error) {
	if m.staging != nil {
		return m.staging, nil
	}
	v, err := m.disk.get(m.stagingName())
	if err != nil || v == nil {
		return nil, err
	}
	if v.(*copyFile).damage() != nil {
		return nil, m.DiscardStaging()
	}
	m.staging = &Staging{m: m}
	return m.staging, nil
}

// Stage implements follow.Mirror.
func (m *Mirror) Stage(ctx context.Context, kind store.StageKind, salt uint64) (follow.Staging, error) {
	if err := m.DiscardStaging(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	st := &copyFile{content: emptyContent(salt)}
	if kind == store.StageCopy && (m.head.Objects > 0 || m.Damaged()) {
		f, err := m.load()
		switch {
		case err != nil:
			return nil, err
		case f == nil:
			return nil, fmt.Errorf("mirror of %s: %w", m.name, store.ErrNotFound)
		case f.salt != salt:
			return nil, fmt.Errorf("%w: the mirror's tree has another salt than the set's", desired.ErrInvalid)
		}
		st.content = f.content
	}
	if err := m.disk.replace(m.stagingName(), st); err != nil {
		return nil, err
	}
	m.staging = &Staging{m: m}
	return m.staging, nil
}

// DiscardStaging implements follow.Mirror.
func (m *Mirror) DiscardStaging() error {
	m.staging = nil
	return m.disk.erase(m.stagingName())
}

// open returns what lies on the disk, or an error if the staging was promoted or
// discarded.
func (st *Staging) open() (*copyFile, error) {
	v, err := st.m.disk.get(st.m.stagingName())
	if err != nil {
		return nil, err
	}
	f, ok := v.(*copyFile)
	if !ok || st.m.staging != st {
		return nil, fmt.Errorf("staging of %s: %w", st.m.name, store.ErrNotFound)
	}
	return f, nil
}

// Salt implements follow.Staging.
func (st *Staging) Salt() uint64 {
	f, err := st.open()
	if err != nil {
		return 0
	}
	return f.salt
}

// Mark implements follow.Staging.
func (st *Staging) Mark() []byte {
	f, err := st.open()
	if err != nil {
		return nil
	}
	return bytes.Clone(f.mark)
}

// View implements follow.Staging.
func (st *Staging) View(fn func(follow.Snapshot) error) error {
	f, err := st.open()
	if err != nil {
		return err
	}
	return view(&f.content, f.on(desired.Head{}), nil, func(s *Snapshot) error { return fn(s) })
}

// Write implements follow.Staging.
func (st *Staging) Write(ctx context.Context, changes []desired.Change, mark []byte) error {
	f, err := st.open()
	if err != nil {
		return err
	}
	all, _, err := gather(ctx, stream(changes), 0)
	if err != nil {
		return err
	}
	kept, _ := f.compare(all)
	next, err := f.apply(merkle.Shape{Salt: f.salt}, kept)
	if err != nil {
		return err
	}
	return st.m.disk.replace(st.m.stagingName(), &copyFile{content: next, mark: slices.Clone(mark)})
}

func stream(changes []desired.Change) iter.Seq2[desired.Change, error] {
	return func(yield func(desired.Change, error) bool) {
		for _, c := range changes {
			if !yield(c, nil) {
				return
			}
		}
	}
}

// Promote implements follow.Staging.
func (st *Staging) Promote(_ context.Context, head desired.Head) error {
	f, err := st.open()
	if err != nil {
		return err
	}
	m := st.m
	if f.root != head.Root {
		return m.mismatch(f.root, head.Root)
	}
	head = f.on(head)
	sealed := &copyFile{content: f.content, head: head, mark: f.mark}
	if err := m.disk.replace(m.stagingName(), sealed); err != nil {
		return err
	}
	if err := m.disk.move(m.stagingName(), mirrorPrefix+m.name); err != nil {
		return err
	}
	if err := m.disk.sync(mirrorPrefix + m.name); err != nil {
		return err
	}
	m.head, m.tree, m.staging = head, head.Root, nil
	return m.raise()
}
