package apply

import (
	"bytes"
	"encoding/hex"
	"slices"

	"espalier/agent/driver"
	"espalier/internal/desired"
	"espalier/store"
)

// item is an object about which a driver has something to do. It is a copy.
type item struct {
	key    []byte
	action action
	change driver.Change
	bytes  int
	// sets and rows are what the record is to say of each set once it is done; no
	// Key: nothing. winner is the one whose row gets the driver's note.
	sets   []desired.Name
	rows   []store.AppliedRow
	winner int
	// drifted says that the record has a drift of it, found one that somebody else
	// caused.
	drifted, found bool
}

// item returns what a driver has to do about o.
func (h *host) item(o *object, a action) (*item, error) {
	route := o.route
	it := &item{
		key: o.key, action: a, winner: o.winner, drifted: o.drifted, found: o.drifted && !o.drift.Doubt,
		change: driver.Change{Key: string(o.key), Name: string(o.key[len(route.Prefix):]), Doubt: o.drifted},
	}
	if o.made >= 0 && o.rows[o.made].Driver == route.Name {
		it.change.Note = bytes.Clone(o.rows[o.made].Note)
		if it.change.Note == nil {
			it.change.Note = []byte{} // it was made, of which there is nothing to note
		}
	}
	it.sets, it.rows = h.names(o), h.settled(o, store.AppliedTrue)
	if a == remove {
		it.change.ID = deletionID(o)
		return it, nil
	}
	content, err := desired.Envelope(bytes.Clone(o.content)).Object(o.key)
	if err != nil {
		return nil, err
	}
	it.change.Object, it.change.ID, it.bytes = &content, hex.EncodeToString(o.wanted[o.winner][:identityBytes]), len(content.Value)
	row := &it.rows[o.winner]
	row.After = nil
	for _, key := range content.After {
		row.After = append(row.After, []byte(key))
	}
	return it, nil
}

// identityBytes are those of a digest that stand for it where a change is named. An
// object's says its key and its content.
const identityBytes = 16

// deletionID returns what stands for the deletion of what was made true.
func deletionID(o *object) string {
	var h desired.Hasher
	what := desired.Envelope("delete\x00")
	if o.made >= 0 {
		what = append(what, o.rows[o.made].Digest[:]...)
	}
	sum := h.Sum(o.key, what)
	return hex.EncodeToString(sum[:identityBytes])
}

// names returns those of the sets of which something is to be recorded of o; empty:
// nothing is, of a set that isn't known and had nothing of it.
func (h *host) names(o *object) []desired.Name {
	names := make([]desired.Name, len(h.sets))
	for i, s := range h.sets {
		if !h.unknown(i) || o.rows[i].Key != nil {
			names[i] = s.name
		}
	}
	return names
}

// cloneRow returns a row that outlives the view it was read in, if its key does.
func cloneRow(r store.AppliedRow) store.AppliedRow {
	r.Note = bytes.Clone(r.Note)
	return r
}

// before returns the keys that an item comes after of those about which something
// is to be done first, which may tells, or is being done, be it something else.
// What shall be comes after what its "after" names, as far as that shall be, too;
// what goes comes after what was made after it, unless that stays as it is.
func (h *host) before(it *item, may func(key []byte, a action) bool, flying map[string]struct{}) (keys []string, err error) {
	others, first := it.afters(), func(a action) bool { return a == create || a == update || a == correct }
	if it.action == remove {
		first = func(a action) bool { return a == create || a == update || a == remove }
		for key, err := range h.record.Dependents(it.key) {
			if err != nil {
				return nil, err
			}
			others = append(others, bytes.Clone(key))
		}
	}
	for _, key := range others {
		o, err := h.object(key)
		if err != nil {
			return nil, err
		}
		_, flies := flying[string(key)]
		if a := h.decide(&o); flies || first(a) && may(key, a) {
			keys = append(keys, string(key))
		}
	}
	return keys, nil
}

// afters returns the keys that what shall be comes after.
func (it *item) afters() [][]byte {
	if it.action == remove {
		return nil
	}
	return it.rows[it.winner].After
}

// ledger gathers what is to be recorded in one transaction.
type ledger struct {
	update store.AppliedUpdate
	sets   map[desired.Name]*store.AppliedRows
}

// rows records what is to be said of an object's key in each set.
func (l *ledger) rows(key []byte, sets []desired.Name, rows []store.AppliedRow) {
	for i, set := range sets {
		if set == "" {
			continue
		}
		of := l.sets[set]
		if of == nil {
			if l.sets == nil {
				l.sets = map[desired.Name]*store.AppliedRows{}
			}
			of = &store.AppliedRows{Set: set}
			l.sets[set] = of
		}
		if rows[i].Key == nil {
			of.Delete = append(of.Delete, key)
		} else {
			of.Put = append(of.Put, rows[i])
		}
	}
}

// done records what became of an item.
func (l *ledger) done(it *item, r driver.Result) {
	rows := it.rows
	if it.action != remove {
		row := &rows[it.winner]
		row.Note = r.Note
		if r.Err != nil { // it is unmanaged
			row.State, row.Note, row.After = store.AppliedUnmanaged, nil, nil
		}
	}
	l.rows(it.key, it.sets, rows)
	if it.drifted {
		l.settle(it.key)
	}
}

// drift records that an object is otherwise, or may be, and settle that it is so no
// longer.
func (l *ledger) drift(d store.Drift) { l.update.Drifted = append(l.update.Drifted, d) }

func (l *ledger) settle(key []byte) { l.update.Settled = append(l.update.Settled, key) }

// empty reports whether there is nothing to record.
func (l *ledger) empty() bool {
	u := l.update
	return len(l.sets) == 0 && len(u.Drifted)+len(u.Settled)+len(u.Begun)+len(u.Ended)+len(u.Forgotten)+len(u.State) == 0
}

// write records it.
func (l *ledger) write(record *store.Applied) error {
	if l.empty() {
		return nil
	}
	for _, rows := range l.sets {
		slices.SortFunc(rows.Put, func(a, b store.AppliedRow) int { return bytes.Compare(a.Key, b.Key) })
		slices.SortFunc(rows.Delete, bytes.Compare)
		l.update.Rows = append(l.update.Rows, *rows)
	}
	slices.SortFunc(l.update.Rows, func(a, b store.AppliedRows) int { return bytes.Compare([]byte(a.Set), []byte(b.Set)) })
	slices.SortFunc(l.update.Drifted, func(a, b store.Drift) int { return bytes.Compare(a.Key, b.Key) })
	slices.SortFunc(l.update.Settled, bytes.Compare)
	return record.Update(l.update)
}
