package store_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"espalier/internal/desired"
	"espalier/merkle"
	"espalier/store"
)

func openApplied(t testing.TB, dir string, o store.Options) *store.Applied {
	t.Helper()
	a, err := store.OpenApplied(dir, "host", o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() }) // most tests have closed it
	return a
}

func viewApplied(t testing.TB, a *store.Applied, fn func(*store.AppliedView)) {
	t.Helper()
	if err := a.View(func(v *store.AppliedView) error { fn(v); return nil }); err != nil {
		t.Fatalf("view: %v", err)
	}
}

// recordSet is what the record of a set should hold.
type recordSet struct {
	salt uint64
	rows map[string]store.AppliedRow
}

// recordModel is what a record should hold: the oracle.
type recordModel struct {
	sets    map[desired.Name]recordSet
	drifts  map[string]store.Drift
	batches map[uint64][][]byte
	state   map[string]string
}

func newRecordModel() *recordModel {
	return &recordModel{map[desired.Name]recordSet{}, map[string]store.Drift{}, map[uint64][][]byte{}, map[string]string{}}
}

func (m *recordModel) update(u store.AppliedUpdate) {
	for _, r := range u.Rows {
		for _, row := range r.Put {
			m.sets[r.Set].rows[string(row.Key)] = row
		}
		for _, key := range r.Delete {
			delete(m.sets[r.Set].rows, string(key))
		}
	}
	for _, key := range u.Settled {
		delete(m.drifts, string(key))
	}
	for _, d := range u.Drifted {
		m.drifts[string(d.Key)] = d
	}
	for _, id := range u.Ended {
		delete(m.batches, id)
	}
	for _, b := range u.Begun {
		m.batches[b.ID] = b.Keys
	}
	for name, v := range u.State {
		if delete(m.state, name); v != nil {
			m.state[name] = string(v)
		}
	}
	for _, name := range u.Forgotten {
		delete(m.sets, name)
	}
}

func (m *recordModel) reshape(name desired.Name, salt uint64) {
	s := m.sets[name]
	s.salt = salt
	if s.rows == nil {
		s.rows = map[string]store.AppliedRow{}
	}
	m.sets[name] = s
}

// reopen makes drifts of what is under way.
func (m *recordModel) reopen() {
	for _, keys := range m.batches {
		for _, key := range keys {
			d := m.drifts[string(key)]
			d.Key, d.Doubt = key, true
			m.drifts[string(key)] = d
		}
	}
	clear(m.batches)
}

// build returns the tree of the set's rows, or of what is observed of them.
func (m *recordModel) build(s recordSet, observed bool) (*merkle.Memory, desired.Digest) {
	tree := &merkle.Memory{}
	b := merkle.Shape{Salt: s.salt}.NewBuilder(tree.Append)
	for _, key := range slices.Sorted(maps.Keys(s.rows)) {
		digest := s.rows[key].Digest
		if d, ok := m.drifts[key]; ok && observed && s.rows[key].State == store.AppliedTrue {
			if digest = d.Seen; digest == (desired.Digest{}) {
				continue
			}
		}
		if err := b.Add([]byte(key), merkle.Digest(digest)); err != nil {
			panic(err)
		}
		if err := tree.Append(0, merkle.Row{Key: []byte(key), Digest: digest, Count: 1}); err != nil {
			panic(err)
		}
	}
	root, _, err := b.Finish()
	if err != nil {
		panic(err)
	}
	return tree, root.Digest
}

// verify holds all that a view tells against m.
func (m *recordModel) verify(t testing.TB, v *store.AppliedView) {
	t.Helper()
	if got, want := v.Sets(), slices.Sorted(maps.Keys(m.sets)); !slices.Equal(got, want) {
		t.Errorf("Sets = %v, want %v", got, want)
	}
	for name, s := range m.sets {
		m.verifySet(t, v, name, s)
	}
	m.verifyDependents(t, v)
	var drifts []store.Drift
	for d, err := range v.Drifts(nil) {
		if err != nil {
			t.Fatalf("Drifts: %v", err)
		}
		drifts = append(drifts, d)
	}
	keys := slices.Sorted(maps.Keys(m.drifts))
	if len(drifts) != len(keys) || v.DriftCount() != uint64(len(keys)) {
		t.Fatalf("there are %d drifts, and DriftCount = %d, want %d", len(drifts), v.DriftCount(), len(keys))
	}
	for i, key := range keys {
		want := m.drifts[key]
		if want.Doubt && want.Reason == "" { // of a batch
			if want.Reason, want.At = drifts[i].Reason, drifts[i].At; want.Reason == "" || time.Since(want.At) > time.Hour {
				t.Errorf("drift in doubt = %+v, want a reason and a time", drifts[i])
			}
		}
		if !reflect.DeepEqual(drifts[i], want) {
			t.Errorf("drift %d = %+v, want %+v", i, drifts[i], want)
		}
	}
	for name, want := range m.state {
		if got := v.State(name); got == nil || string(got) != want {
			t.Errorf("State(%q) = %q, want %q", name, got, want)
		}
	}
	if got := v.State("never"); got != nil {
		t.Errorf("State of what was never kept = %q, want nil", got)
	}
}

func (m *recordModel) verifySet(t testing.TB, v *store.AppliedView, name desired.Name, s recordSet) {
	t.Helper()
	tree, root := m.build(s, false)
	if got, err := v.Root(name); err != nil || got != root {
		t.Errorf("Root(%s) = %v, %v, want %v", name, got, err, root)
	}
	if shape, ok := v.Shape(name); !ok || shape.Salt != s.salt {
		t.Errorf("Shape(%s) = %v, %v, want salt %d", name, shape, ok, s.salt)
	}
	sameTree(t, v.Tree(name), tree, len(s.rows) > 0)
	if _, want := m.build(s, true); true {
		if got, err := v.Observed(name); err != nil || got != want {
			t.Errorf("Observed(%s) = %v, %v, want %v", name, got, err, want)
		}
	}
	if n, err := v.Objects(name); err != nil || n != uint64(len(s.rows)) {
		t.Errorf("Objects(%s) = %d, %v, want %d", name, n, err, len(s.rows))
	}
	counts := map[store.AppliedState]uint64{}
	keys := slices.Sorted(maps.Keys(s.rows))
	i := 0
	for r, err := range v.Rows(name, nil, nil) {
		if err != nil || i == len(keys) || !sameRow(r, s.rows[keys[i]]) {
			t.Fatalf("row %d of %s = %+v, %v, want that of %.1q", i, name, r, err, keys[min(i, len(keys)):])
		}
		counts[r.State]++
		i++
	}
	if i < len(keys) {
		t.Fatalf("Rows(%s) ends before %q", name, keys[i])
	}
	for state := range store.AppliedUnmanaged + 1 {
		if n, err := v.Count(name, state); err != nil || n != counts[state] {
			t.Errorf("Count(%s, %d) = %d, %v, want %d", name, state, n, err, counts[state])
		}
	}
	for i := range 40 {
		key := fmt.Sprintf("k/%03d", i*5)
		r, ok, err := v.Row(name, []byte(key))
		if want, there := s.rows[key]; err != nil || ok != there || ok && !sameRow(r, want) {
			t.Errorf("Row(%s, %s) = %+v, %v, %v, want %+v, %v", name, key, r, ok, err, want, there)
		}
	}
}

func (m *recordModel) verifyDependents(t testing.TB, v *store.AppliedView) {
	t.Helper()
	want := map[string]map[string]bool{}
	for _, s := range m.sets {
		for key, r := range s.rows {
			for _, after := range r.After {
				if r.State == store.AppliedTrue {
					if want[string(after)] == nil {
						want[string(after)] = map[string]bool{}
					}
					want[string(after)][key] = true
				}
			}
		}
	}
	for i := range 200 {
		after := fmt.Sprintf("k/%03d", i)
		var got []string
		for key, err := range v.Dependents([]byte(after)) {
			if err != nil {
				t.Fatalf("Dependents(%s): %v", after, err)
			}
			got = append(got, string(key))
		}
		if all := slices.Sorted(maps.Keys(want[after])); !slices.Equal(got, all) {
			t.Errorf("Dependents(%s) = %v, want %v", after, got, all)
		}
	}
}

func sameRow(a, b store.AppliedRow) bool {
	return bytes.Equal(a.Key, b.Key) && a.Digest == b.Digest && a.State == b.State && a.Driver == b.Driver &&
		a.Note != nil && bytes.Equal(a.Note, b.Note) && slices.EqualFunc(a.After, b.After, bytes.Equal)
}

// sameTree demands that a tree has exactly the rows of want; one without objects
// may have none at all.
func sameTree(t testing.TB, got, want merkle.Reader, objects bool) {
	t.Helper()
	height, err := got.Height()
	if wanted, _ := want.Height(); err != nil || height != wanted && objects {
		t.Fatalf("the tree has height %d, %v, want %d", height, err, wanted)
	}
	for level := range height + 1 {
		var rows []merkle.Row
		for r, err := range want.Rows(level, nil, nil) {
			if err != nil {
				t.Fatal(err)
			}
			rows = append(rows, r)
		}
		for r, err := range got.Rows(level, nil, nil) {
			if err != nil || len(rows) == 0 || !bytes.Equal(r.Key, rows[0].Key) || r.Digest != rows[0].Digest || r.Count != rows[0].Count {
				t.Fatalf("level %d has a row %+v, %v, want %.1v", level, r, err, rows)
			}
			rows = rows[1:]
		}
		if len(rows) > 0 {
			t.Fatalf("level %d lacks %v", level, rows)
		}
	}
}

var recordNames = []desired.Name{"base", "host", "role"}

// random returns an update that the record takes.
func (m *recordModel) random(rng *rand.Rand, id *uint64) store.AppliedUpdate {
	var u store.AppliedUpdate
	for _, name := range recordNames {
		if _, ok := m.sets[name]; ok && rng.IntN(2) == 0 {
			u.Rows = append(u.Rows, randomRows(rng, name))
		}
	}
	for _, key := range randomKeys(rng, 10) {
		switch rng.IntN(2) {
		case 0:
			u.Settled = append(u.Settled, key)
		default:
			d := store.Drift{Key: key, Reason: "missing", At: time.UnixMilli(rng.Int64N(1 << 40)), Doubt: rng.IntN(2) == 0}
			if rng.IntN(2) == 0 {
				d.Seen = randomDigest(rng)
			}
			u.Drifted = append(u.Drifted, d)
		}
	}
	for range rng.IntN(3) {
		*id++
		u.Begun = append(u.Begun, store.AppliedBatch{ID: *id, Keys: randomKeys(rng, 1<<rng.IntN(8))})
	}
	for id := range m.batches {
		if rng.IntN(2) == 0 {
			u.Ended = append(u.Ended, id)
		}
	}
	if rng.IntN(3) == 0 {
		u.State = map[string][]byte{fmt.Sprint(rng.IntN(5)): []byte(fmt.Sprint(rng.Uint32()))[rng.IntN(2):], "gone": nil}
	}
	if rng.IntN(30) == 0 {
		u.Forgotten = []desired.Name{recordNames[rng.IntN(3)]}
	}
	return u
}

func randomDigest(rng *rand.Rand) desired.Digest {
	return desired.Digest{0: byte(rng.IntN(3) + 1), 31: byte(rng.IntN(3))}
}

func randomKeys(rng *rand.Rand, most int) [][]byte {
	var keys [][]byte
	for range rng.IntN(most + 1) {
		keys = append(keys, fmt.Appendf(nil, "k/%03d", rng.IntN(200)))
	}
	slices.SortFunc(keys, bytes.Compare)
	return slices.CompactFunc(keys, bytes.Equal)
}

func randomRows(rng *rand.Rand, name desired.Name) store.AppliedRows {
	rows := store.AppliedRows{Set: name}
	deletes := rng.IntN(5)
	for _, key := range randomKeys(rng, 1<<rng.IntN(9)) {
		if rng.IntN(5) < deletes {
			rows.Delete = append(rows.Delete, key)
			continue
		}
		row := store.AppliedRow{
			Key: key, Digest: randomDigest(rng), State: store.AppliedState(max(0, rng.IntN(5)-2)),
			Driver: []string{"", "file /srv", "process"}[rng.IntN(3)], Note: bytes.Repeat([]byte("n"), rng.IntN(90)),
		}
		if rng.IntN(3) == 0 {
			row.After = slices.DeleteFunc(randomKeys(rng, 4), func(k []byte) bool { return bytes.Equal(k, key) })
		}
		rows.Put = append(rows.Put, row)
	}
	return rows
}

// TestRecordHistories holds a record against the oracle through random histories.
func TestRecordHistories(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	for i := range 12 {
		t.Run(fmt.Sprintf("seed %d", seed+uint64(i)), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed+uint64(i), 0))
			o := quiet
			if rng.IntN(2) == 0 {
				o = store.Small(o, 8)
			}
			dir := t.TempDir()
			a := openApplied(t, dir, o)
			m, id := newRecordModel(), uint64(0)
			for step := range 60 {
				switch rng.IntN(12) {
				case 0:
					if err := a.Close(); err != nil {
						t.Fatal(err)
					}
					a = openApplied(t, dir, o)
					m.reopen()
				case 1, 2:
					name, salt := recordNames[rng.IntN(3)], rng.Uint64N(4)
					if err := a.Reshape(t.Context(), name, salt); err != nil {
						t.Fatal(err)
					}
					m.reshape(name, salt)
				default:
					u := m.random(rng, &id)
					if err := a.Update(u); err != nil {
						t.Fatal(err)
					}
					m.update(u)
				}
				viewApplied(t, a, func(v *store.AppliedView) { m.verify(t, v) })
				if t.Failed() {
					t.Fatalf("after step %d", step)
				}
			}
		})
	}
}

// TestRecordUnknownSet: what isn't in the record is empty, and takes no rows.
func TestRecordUnknownSet(t *testing.T) {
	t.Parallel()
	a := openApplied(t, t.TempDir(), quiet)
	viewApplied(t, a, func(v *store.AppliedView) {
		if _, ok := v.Shape("set"); ok || len(v.Sets()) > 0 {
			t.Errorf("Shape = %v, Sets = %v, want nothing", ok, v.Sets())
		}
		root, err := merkle.Root(v.Tree("set"))
		observed, err2 := v.Observed("set")
		if err := cmp.Or(err, err2); err != nil || root.Digest != merkle.EmptyRoot() || observed != merkle.EmptyRoot() {
			t.Errorf("roots = %x, %v, %v, want that of the empty tree", root.Digest, observed, err)
		}
		for r, err := range v.Rows("set", nil, nil) {
			t.Errorf("Rows yields %v, %v, want nothing", r, err)
		}
	})
	err := a.Update(store.AppliedUpdate{
		Rows:  []store.AppliedRows{{Set: "set", Put: []store.AppliedRow{{Key: []byte("k")}}}},
		State: map[string][]byte{"a": []byte("1")},
	})
	if !errors.Is(err, store.ErrNotFound) || !strings.Contains(err.Error(), "Reshape") {
		t.Errorf("Update = %v, want %v, naming Reshape", err, store.ErrNotFound)
	}
	viewApplied(t, a, func(v *store.AppliedView) {
		if got := v.State("a"); got != nil {
			t.Errorf("State = %q after an update that was refused, want nil", got)
		}
	})
}

// TestRecordRefuses lists updates that are refused before anything is written.
func TestRecordRefuses(t *testing.T) {
	t.Parallel()
	rows := func(r store.AppliedRows) store.AppliedUpdate {
		r.Set = "set"
		return store.AppliedUpdate{Rows: []store.AppliedRows{r}}
	}
	put := func(r store.AppliedRow) store.AppliedUpdate {
		return rows(store.AppliedRows{Put: []store.AppliedRow{r}})
	}
	a, b := []byte("a"), []byte("b")
	bad := map[string]store.AppliedUpdate{
		"no key":          put(store.AppliedRow{}),
		"state":           put(store.AppliedRow{Key: a, State: 3}),
		"driver":          put(store.AppliedRow{Key: a, Driver: strings.Repeat("d", store.MaxRouteBytes+1)}),
		"note":            put(store.AppliedRow{Key: a, Note: make([]byte, store.MaxNoteBytes+1)}),
		"after descends":  put(store.AppliedRow{Key: a, After: [][]byte{[]byte("c"), b}}),
		"too many after":  put(store.AppliedRow{Key: a, After: manyKeys(desired.MaxAfter + 1)}),
		"puts descend":    rows(store.AppliedRows{Put: []store.AppliedRow{{Key: b}, {Key: a}}}),
		"put twice":       rows(store.AppliedRows{Put: []store.AppliedRow{{Key: a}, {Key: a}}}),
		"deletes descend": rows(store.AppliedRows{Delete: [][]byte{b, a}}),
		"put and deleted": rows(store.AppliedRows{Put: []store.AppliedRow{{Key: b}}, Delete: [][]byte{a, b}}),
		"drift's key":     {Drifted: []store.Drift{{Key: []byte("a//b")}}},
		"reason":          {Drifted: []store.Drift{{Key: a, Reason: strings.Repeat("r", store.MaxReasonBytes+1)}}},
		"batch descends":  {Begun: []store.AppliedBatch{{ID: 1, Keys: [][]byte{b, a}}}},
		"batch twice":     {Begun: []store.AppliedBatch{{ID: 1}, {ID: 1}}},
		"state's name":    {State: map[string][]byte{"": a}},
		"state's value":   {State: map[string][]byte{"s": make([]byte, store.MaxStateBytes+1)}},
	}
	r := openApplied(t, t.TempDir(), quiet)
	if err := r.Reshape(t.Context(), "set", 1); err != nil {
		t.Fatal(err)
	}
	for name, u := range bad {
		if err := r.Update(u); !errors.Is(err, desired.ErrInvalid) {
			t.Errorf("%s: Update = %v, want %v", name, err, desired.ErrInvalid)
		}
	}
	largest := store.AppliedRow{
		Key: a, Driver: strings.Repeat("d", store.MaxRouteBytes), Note: make([]byte, store.MaxNoteBytes), After: manyKeys(desired.MaxAfter),
	}
	if err := r.Update(put(largest)); err != nil {
		t.Errorf("the largest row: %v", err)
	}
	viewApplied(t, r, func(v *store.AppliedView) {
		if got, ok, err := v.Row("set", a); err != nil || !ok || !sameRow(got, largest) {
			t.Errorf("Row = %+v, %v, %v, want the largest", got, ok, err)
		}
	})
	if err := r.Reshape(t.Context(), "No Name", 1); !errors.Is(err, desired.ErrInvalid) {
		t.Errorf("Reshape of a bad name = %v, want %v", err, desired.ErrInvalid)
	}
}

func manyKeys(n int) (keys [][]byte) {
	for i := range n {
		keys = append(keys, fmt.Appendf(nil, "%s/%03d", strings.Repeat("k", 1000), i))
	}
	return keys
}

// TestRecordDiff compares a mirror with the record, as an agent does.
func TestRecordDiff(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	m := openMirror(t, dir, quiet)
	src := newSource(t, model{}.apply(numbered(3000, "1")))
	src.sync(m)
	a := openApplied(t, dir, quiet)
	if err := a.Reshape(t.Context(), "set", src.salt()); err != nil {
		t.Fatal(err)
	}
	var rows []store.AppliedRow
	for _, c := range src.model.puts().list() {
		rows = append(rows, store.AppliedRow{Key: c.Key, Digest: c.Digest})
	}
	changed := rows[1234].Key
	rows[1234].Digest[0]++
	if err := a.Update(store.AppliedUpdate{Rows: []store.AppliedRows{{Set: "set", Put: rows}}}); err != nil {
		t.Fatal(err)
	}
	var got []string
	err := m.View(func(snap *store.Snapshot) error {
		return a.View(func(v *store.AppliedView) error {
			for d, err := range merkle.Diff(snap, v.Tree("set")) {
				if err != nil {
					return err
				}
				got = append(got, string(d.Key))
			}
			return nil
		})
	})
	if err != nil || !slices.Equal(got, []string{string(changed)}) {
		t.Errorf("Diff = %v, %v, want %s", got, err, changed)
	}
}

// TestReshapeCancelled: a tree that isn't finished is none.
func TestReshapeCancelled(t *testing.T) {
	t.Parallel()
	a := openApplied(t, t.TempDir(), quiet)
	if err := a.Reshape(t.Context(), "set", 1); err != nil {
		t.Fatal(err)
	}
	m := newRecordModel()
	m.reshape("set", 1)
	var rows []store.AppliedRow
	for i := range 5000 {
		rows = append(rows, store.AppliedRow{Key: fmt.Appendf(nil, "x/%05d", i)})
	}
	u := store.AppliedUpdate{Rows: []store.AppliedRows{{Set: "set", Put: rows}}}
	if err := a.Update(u); err != nil {
		t.Fatal(err)
	}
	m.update(u)
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("enough")
	cancel(reason)
	if err := a.Reshape(ctx, "set", 2); !errors.Is(err, reason) {
		t.Errorf("Reshape = %v, want %v", err, reason)
	}
	viewApplied(t, a, func(v *store.AppliedView) { m.verify(t, v) })
}

// TestRecordClosed: a record that is closed says so, and another host's is refused.
func TestRecordClosed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := openApplied(t, dir, quiet)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"Close":   a.Close(),
		"View":    a.View(func(*store.AppliedView) error { return nil }),
		"Update":  a.Update(store.AppliedUpdate{}),
		"Reshape": a.Reshape(t.Context(), "set", 1),
	} {
		if !errors.Is(err, store.ErrClosed) {
			t.Errorf("%s = %v, want %v", what, err, store.ErrClosed)
		}
	}
	if _, err := store.OpenApplied(dir, "other", quiet); !errors.Is(err, store.ErrForeign) || !strings.Contains(err.Error(), "applied.db") {
		t.Errorf("OpenApplied of another host = %v, want %v, naming the file", err, store.ErrForeign)
	}
}
