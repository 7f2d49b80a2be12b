package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"iter"
	"math"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"espalier/internal/desired"
)

// The journal says which keys each revision touched, not what they became:
// whoever was left behind is sent their present state. Each revision has a row,
//
//	number 8 → root 32, uvarint time, uvarint length, who, uvarint length, why, uvarint count, keys
//
// time being milliseconds since 1970 and count that of all the revision's keys.
// Keys are prefix-coded: (uvarint bytes shared with the key before, uvarint
// length of the rest, rest). If they outgrow a row, the earlier ones stand in
// rows (number 8, part 4) behind it.
//
// The first row is a base: the set can tell what came after it, so its own keys
// are dropped.

// revision is a row of the journal, without its keys.
type revision struct {
	number   uint64
	root     desired.Digest
	time     time.Time
	who, why string
	count    uint64 // of its keys
}

func journalKey(number uint64) []byte {
	return binary.BigEndian.AppendUint64(nil, number)
}

func (r *revision) encode(keys []byte) []byte {
	v := make([]byte, 0, digestBytes+len(r.who)+len(r.why)+len(keys)+24)
	v = append(v, r.root[:]...)
	v = binary.AppendUvarint(v, uint64(max(0, r.time.UnixMilli())))
	v = append(binary.AppendUvarint(v, uint64(len(r.who))), r.who...)
	v = append(binary.AppendUvarint(v, uint64(len(r.why))), r.why...)
	v = binary.AppendUvarint(v, r.count)
	return append(v, keys...)
}

// decodeRevision returns the row and the keys at its end, still encoded.
func decodeRevision(key, v []byte) (r revision, keys []byte, err error) {
	d := decoder{rest: v}
	copy(r.root[:], d.bytes(uint64(digestBytes)))
	r.time = time.UnixMilli(int64(d.uvarint()))
	r.who = string(d.bytes(d.uvarint()))
	r.why = string(d.bytes(d.uvarint()))
	r.count = d.uvarint()
	if len(key) != 8 || d.bad {
		return revision{}, nil, fmt.Errorf("%w: journal row %x: malformed", ErrCorrupt, key)
	}
	r.number = binary.BigEndian.Uint64(key)
	return r, d.rest, nil
}

// decoder reads what its caller appended; bad means that it ran dry.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) uvarint() uint64 {
	u, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.bad, d.rest = true, nil
		return 0
	}
	d.rest = d.rest[n:]
	return u
}

func (d *decoder) bytes(n uint64) []byte {
	if n > uint64(len(d.rest)) {
		d.bad, d.rest = true, nil
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

// keyCoder prefix-codes ascending keys.
type keyCoder struct {
	buf, last []byte
}

func (k *keyCoder) add(key []byte) {
	shared := 0
	for shared < min(len(key), len(k.last)) && key[shared] == k.last[shared] {
		shared++
	}
	k.buf = binary.AppendUvarint(k.buf, uint64(shared))
	k.buf = binary.AppendUvarint(k.buf, uint64(len(key)-shared))
	k.buf = append(k.buf, key[shared:]...)
	k.last = append(k.last[:0], key...)
}

// take returns what was coded since the last take, and starts anew.
func (k *keyCoder) take() []byte {
	coded := k.buf
	k.buf, k.last = nil, k.last[:0]
	return coded
}

// decodeKeys hands the keys that a keyCoder coded to fn, in memory of their
// own.
func decodeKeys(coded []byte, fn func(key []byte)) error {
	d := decoder{rest: coded}
	var last []byte
	for len(d.rest) > 0 {
		shared, rest := d.uvarint(), d.bytes(d.uvarint())
		size := shared + uint64(len(rest))
		if d.bad || shared > uint64(len(last)) || size == 0 || size > desired.MaxKeyBytes {
			return fmt.Errorf("%w: malformed keys in the journal", ErrCorrupt)
		}
		last = append(append(make([]byte, 0, size), last[:shared]...), rest...)
		fn(last)
	}
	return nil
}

// journal is the bucket of that name in a transaction.
type journal struct{ *bolt.Bucket }

func openJournal(tx *bolt.Tx) (journal, error) {
	b := tx.Bucket(bucketJournal)
	if b == nil {
		return journal{}, fmt.Errorf("%w: a bucket is missing", ErrCorrupt)
	}
	b.FillPercent = 1 // rows are only ever appended
	return journal{b}, nil
}

// journalLimit is how many keys the journal of a set of so many objects keeps.
func journalLimit(objects uint64) uint64 { return max(minJournalKeys, objects/journalShare) }

// touched returns what happened after the revision number.
func (j journal) touched(number uint64, limit int) (Touched, bool, error) {
	c := j.Cursor()
	key, v, err := seek(c, journalKey(number))
	if err != nil || !bytes.Equal(key, journalKey(number)) {
		return Touched{}, false, err
	}
	base, _, err := decodeRevision(key, v)
	if err != nil {
		return Touched{}, false, err
	}
	limit = min(limit, math.MaxInt32)
	t := Touched{Root: base.root}
	for key, v, err = next(c); err == nil && key != nil; key, v, err = next(c) {
		if len(key) >= 8 && binary.BigEndian.Uint64(key) == number {
			continue // the base's own keys
		}
		if len(key) == 8 {
			if _, v, err = decodeRevision(key, v); err != nil {
				return Touched{}, false, err
			}
		}
		if err := decodeKeys(v, func(k []byte) { t.Keys = append(t.Keys, k) }); err != nil {
			return Touched{}, false, err
		}
		if len(t.Keys) > 2*limit+minJournalKeys {
			if t.unite(); len(t.Keys) > limit {
				break
			}
		}
	}
	if t.unite(); len(t.Keys) > limit {
		return Touched{Root: t.Root}, false, err
	}
	return t, err == nil, err
}

// LogEntry is a revision as a set's journal tells of it.
type LogEntry struct {
	desired.Revision
	Time     time.Time
	Who, Why string
	// Keys counts those that the revision wrote or deleted.
	Keys uint64
	// Base is whether the journal begins here: which keys this revision touched
	// is not known any more.
	Base bool
}

// Committed returns when the head was committed, as the journal has it; zero: it
// doesn't say.
func (s *Snapshot) Committed() (time.Time, error) {
	r, _, err := s.journal.before(math.MaxUint64)
	if err != nil || r.number != s.meta.head.Number || r.time.UnixMilli() == 0 {
		return time.Time{}, s.fail(err)
	}
	return r.time, nil
}

// Log returns the revisions below that number that the journal tells of, the
// latest first; 0 stands for all of them. It ends with the first error.
func (s *Snapshot) Log(below uint64) iter.Seq2[LogEntry, error] {
	return func(yield func(LogEntry, error) bool) {
		if below == 0 {
			below = math.MaxUint64
		}
		for {
			r, base, err := s.journal.before(below)
			if err != nil {
				yield(LogEntry{}, s.fail(err))
				return
			}
			if r.number == 0 {
				return
			}
			e := LogEntry{Time: r.time, Who: r.who, Why: r.why, Keys: r.count, Base: base}
			e.Epoch, e.Number, e.Root = s.meta.head.Epoch, r.number, r.root
			if !yield(e, nil) || base {
				return
			}
			below = r.number
		}
	}
}

// before returns the latest revision below the number, zero if there is none,
// and whether it is the base.
func (j journal) before(number uint64) (r revision, base bool, err error) {
	c := j.Cursor()
	key, _, err := before(c, journalKey(number)) // of the last part of its keys, perhaps
	if err != nil || key == nil {
		return revision{}, false, err
	}
	key = key[:min(len(key), 8)]
	row, v, err := seek(c, key)
	if err == nil && !bytes.Equal(row, key) {
		err = fmt.Errorf("%w: journal row %x belongs to no revision", ErrCorrupt, key)
	}
	if err != nil {
		return revision{}, false, err
	}
	if r, _, err = decodeRevision(row, v); err != nil {
		return revision{}, false, err
	}
	earlier, _, err := before(c, key)
	return r, earlier == nil, err
}

// unite sorts the keys and drops those that are there twice.
func (t *Touched) unite() {
	if !slices.IsSortedFunc(t.Keys, bytes.Compare) {
		slices.SortFunc(t.Keys, bytes.Compare)
	}
	t.Keys = slices.CompactFunc(t.Keys, bytes.Equal)
}

// journalWriter writes the row, or rows, of one revision.
type journalWriter struct {
	number uint64
	count  uint64 // of keys
	part   uint32
	keys   keyCoder
}

// touch adds a key; keys ascend.
func (w *journalWriter) touch(j rowWriter, key []byte) error {
	w.keys.add(key)
	w.count++
	if len(w.keys.buf) < journalPartBytes {
		return nil
	}
	w.part++
	return j.Put(binary.BigEndian.AppendUint32(journalKey(w.number), w.part), w.keys.take())
}

// finish writes r's row, with the keys that are left over.
func (w *journalWriter) finish(j journal, r revision) error {
	r.count = w.count
	return j.Put(journalKey(w.number), r.encode(w.keys.take()))
}

// rebase makes r, which touches nothing, the only row.
func rebase(tx *bolt.Tx, r revision) error {
	if err := tx.DeleteBucket(bucketJournal); err != nil {
		return err
	}
	b, err := tx.CreateBucket(bucketJournal)
	if err != nil {
		return err
	}
	return b.Put(journalKey(r.number), r.encode(nil))
}

// trim drops the oldest revisions until at most limit keys are left of the
// total, and returns how many there are then.
func (j journal) trim(total, limit uint64) (uint64, error) {
	if total <= limit {
		return total, nil
	}
	limit -= limit / journalSlack
	var drop [][]byte
	c := j.Cursor()
	k, v := c.First()
	for ; k != nil; k, v = c.Next() {
		if len(k) == 8 {
			r, _, err := decodeRevision(k, v)
			if err != nil {
				return 0, err
			}
			total -= min(r.count, total)
			if total <= limit {
				return total, j.makeBase(r, drop)
			}
		}
		drop = append(drop, bytes.Clone(k))
	}
	return 0, fmt.Errorf("%w: the journal has fewer keys than the head says", ErrCorrupt)
}

// makeBase deletes the rows before r and makes r the base.
func (j journal) makeBase(r revision, drop [][]byte) error {
	part := journalKey(r.number)
	c := j.Cursor()
	c.Seek(part)
	for k, _ := c.Next(); bytes.HasPrefix(k, part); k, _ = c.Next() {
		drop = append(drop, bytes.Clone(k))
	}
	for _, k := range drop {
		if err := j.Delete(k); err != nil {
			return err
		}
	}
	r.count = 0
	return j.Put(journalKey(r.number), r.encode(nil))
}
