package pattern

import (
	"cmp"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"time"

	"espalier/internal/delta"
	"espalier/internal/desired"
)

// history is what becomes of a state: the same for all patterns. Objects have no
// content, but for frames: what an object is, is which revision wrote it last.
type history struct {
	point   *Point
	seed    uint64
	codec   *delta.Codec
	commits []commit // commit i makes revision i+1; ascending by time
	slots   []slot   // the objects that are ever touched
	// published is the revision that has a sum: see mirror. Revision 0 is that
	// which all begin with.
	published map[uint64]int
	sums      []uint64 // by revision
	objects   []int    // by revision
	// perObject is the bytes of an object in a transfer of everything, framing
	// included.
	perObject float64
}

// commit is one revision's changes, ascending by key.
type commit struct {
	at      time.Duration
	changes []change
	// frame is the bytes of the changes as a frame, payload those of their keys
	// and values.
	frame, payload int
}

// change writes an object, or deletes it.
type change struct {
	slot    int32
	deleted bool
}

// slot is an object that a history touches. It lies in the service and has the
// id that its key is made of; place is its place, or that of the object before
// it, among those of revision 0.
type slot struct {
	service int32
	id      uint32
	place   int32
	// born is the revision that made it, died that which deleted it; 0: none did.
	born, died int32
}

// existed reports whether there was such an object at a revision.
func (s *slot) existed(rev int) bool {
	return int(s.born) <= rev && (s.died == 0 || rev < int(s.died))
}

const (
	// serviceObjects is how many objects share all of their keys but an id, and
	// keyBytes the length of a key, as in the other benchmarks.
	serviceObjects = 1000
	keyBytes       = len("svc/00042/object/1f3a90c2")
	// gap is how far apart the ids of neighbours are, about.
	gap = 1 << 32 / serviceObjects
)

// newHistory makes up the commits of so long. It returns the context's cause if that
// ends first.
func newHistory(ctx context.Context, p *Point, seed uint64, length time.Duration, codec *delta.Codec) (*history, error) {
	h := &history{point: p, seed: p.seed(seed), codec: codec}
	random := rand.New(rand.NewPCG(h.seed, 1))
	d := drafter{history: h, random: random, slotOf: map[int]int32{}, gone: map[int]bool{}}
	objects := p.Objects
	h.published, h.sums, h.objects = map[uint64]int{0: 0}, []uint64{0}, []int{objects}
	held := mirror{history: h}
	for at := 0.0; ; {
		at += random.ExpFloat64() * p.EverySeconds
		if at >= length.Seconds() {
			break
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		c := commit{at: seconds(at)}
		var added int
		c.changes, added = d.draft(min(p.Changes, p.Objects/changeShare))
		objects += added
		h.commits = append(h.commits, c)
		held.versions = append(held.versions, make([]uint32, len(h.slots)-len(held.versions))...)
		rev := len(h.commits)
		held.write(c.changes, rev)
		h.published[held.sum] = rev
		h.sums, h.objects = append(h.sums, held.sum), append(h.objects, objects)
	}
	for i := range h.commits {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		c := &h.commits[i]
		c.frame = h.frame(c.changes)
		for _, ch := range c.changes {
			if c.payload += keyBytes; !ch.deleted {
				c.payload += p.ValueBytes
			}
		}
	}
	h.perObject = h.measureWhole()
	return h, nil
}

// drafter draws what commits change.
type drafter struct {
	*history
	random *rand.Rand
	slotOf map[int]int32 // by object: original ones by place, others behind
	added  []int32       // slots of objects that were inserted
	gone   map[int]bool
	taken  map[int]bool // in this commit
}

// draft draws the next commit's changes, and says by how many the objects grow.
func (d *drafter) draft(n int) (changes []change, grown int) {
	d.taken = map[int]bool{}
	kinds := d.random.Perm(n)
	place := d.random.IntN(d.point.Objects)
	for i := range n {
		var c change
		switch kind := kinds[i]; {
		case kind < n/10:
			c.slot = d.insert(d.place(place))
			grown++
		default:
			object := d.pick(d.place(place))
			c.slot = d.touch(object)
			if c.deleted = kind < n/10*2; c.deleted {
				d.gone[object] = true
				d.slots[c.slot].died = d.rev()
				grown--
			}
		}
		changes = append(changes, c)
		place = (place + 1) % d.point.Objects
	}
	slices.SortFunc(changes, func(a, b change) int { return d.slots[a.slot].compare(&d.slots[b.slot]) })
	return changes, grown
}

// rev is the revision that is being drafted.
func (d *drafter) rev() int32 { return int32(len(d.commits) + 1) }

// place returns where the next change is.
func (d *drafter) place(next int) int {
	if d.point.Clustered {
		return next
	}
	return d.random.IntN(d.point.Objects + len(d.added))
}

// pick returns an object that there is and that this commit doesn't touch yet, at
// a place or else anywhere.
func (d *drafter) pick(object int) int {
	for d.gone[object] || d.taken[object] {
		object = d.random.IntN(d.point.Objects + len(d.added))
	}
	d.taken[object] = true
	return object
}

func (d *drafter) touch(object int) int32 {
	s, ok := d.slotOf[object]
	switch {
	case object >= d.point.Objects:
		s = d.added[object-d.point.Objects]
	case !ok:
		s = int32(len(d.slots))
		d.slotOf[object] = s
		d.slots = append(d.slots, d.original(object))
	}
	return s
}

// insert makes an object next to one of revision 0.
func (d *drafter) insert(object int) int32 {
	at := d.original(object % d.point.Objects)
	at.id += gap/4 + uint32(d.random.Int64N(gap/2))
	at.born = d.rev()
	s := int32(len(d.slots))
	d.taken[d.point.Objects+len(d.added)] = true
	d.slots, d.added = append(d.slots, at), append(d.added, s)
	return s
}

// original returns an object of revision 0.
func (h *history) original(place int) slot {
	return slot{
		service: int32(place / serviceObjects), place: int32(place),
		id: uint32(place%serviceObjects)*gap + uint32(scramble(h.seed, uint64(place))%(gap/4)),
	}
}

func (s *slot) compare(other *slot) int {
	return cmp.Or(cmp.Compare(s.service, other.service), cmp.Compare(s.id, other.id))
}

func (s *slot) appendKey(key []byte) []byte {
	key = append(key, "svc/00000/object/00000000"...)
	at, service, id := len(key)-keyBytes, s.service, s.id
	for i := at + len("svc/00000") - 1; service > 0; i-- {
		key[i] = byte('0' + service%10)
		service /= 10
	}
	for i := at + keyBytes - 1; id > 0; i-- {
		key[i] = "0123456789abcdef"[id%16]
		id /= 16
	}
	return key
}

// scramble returns a number that two numbers fix, and nothing else tells
// (SplitMix64).
func scramble(a, b uint64) uint64 {
	x := a + b*0x9e3779b97f4a7c15 + 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// framer makes real frames of objects without content, to learn their size.
type framer struct {
	h      *history
	w      *delta.FrameWriter
	key    []byte
	envel  desired.Envelope
	values *rand.ChaCha8
}

func (h *history) framer() *framer {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], h.seed)
	return &framer{
		h: h, w: delta.NewFrameWriter(h.codec), envel: make(desired.Envelope, 1+h.point.ValueBytes), values: rand.NewChaCha8(key),
	}
}

// add adds an object with a value that doesn't compress, or its deletion.
func (f *framer) add(s slot, deleted bool) {
	f.key = s.appendKey(f.key[:0])
	c := desired.Change{Key: f.key}
	if !deleted {
		_, _ = f.values.Read(f.envel[1:]) // never fails
		c.Envelope = f.envel
	}
	if err := f.w.Add(c); err != nil {
		panic(err) // our own envelope
	}
}

// frame returns the bytes of changes, ascending by key, as one frame.
func (h *history) frame(changes []change) int {
	f := h.framer()
	for _, c := range changes {
		f.add(h.slots[c.slot], c.deleted)
	}
	return len(f.w.Frame())
}

// measureWhole returns the bytes that an object takes when everything is sent, from
// a sample of neighbours.
func (h *history) measureWhole() float64 {
	f, bytes := h.framer(), 0
	n := min(h.point.Objects, wholeSample)
	for place := range n {
		f.add(h.original(place), false)
		if f.w.Full() {
			bytes += len(f.w.Frame()) + messageBytes
		}
	}
	if f.w.Len() > 0 {
		bytes += len(f.w.Frame()) + messageBytes
	}
	return float64(bytes) / float64(n)
}

// whole returns the bytes of everything at a revision.
func (h *history) whole(rev int) int { return int(h.perObject * float64(h.objects[rev])) }

// union returns what changed after one revision, up to another: each object once,
// ascending by key.
func (h *history) union(after, until int) []change {
	var all []change
	for _, c := range h.commits[after:until] {
		all = append(all, c.changes...)
	}
	if until == after+1 {
		return all
	}
	slices.SortStableFunc(all, func(a, b change) int {
		return cmp.Or(h.slots[a.slot].compare(&h.slots[b.slot]), cmp.Compare(a.slot, b.slot))
	})
	last := all[:0]
	for i, c := range all {
		if i+1 == len(all) || all[i+1].slot != c.slot {
			last = append(last, c)
		}
	}
	return last
}

// frames returns the bytes of the frames that changes make in a pull, each closed
// when it is full.
func (h *history) frames(changes []change) []int {
	var sizes []int
	f := h.framer()
	for _, c := range changes {
		if f.add(h.slots[c.slot], c.deleted); f.w.Full() {
			sizes = append(sizes, len(f.w.Frame()))
		}
	}
	if f.w.Len() > 0 {
		sizes = append(sizes, len(f.w.Frame()))
	}
	return sizes
}

// compacted returns the oldest revision from which a server that keeps commits for
// historyTime can still say what changed.
func (h *history) compacted(head int, now time.Duration) int {
	return head - len(h.since(head, now-historyTime))
}

// since returns the commits up to a head that are not older than a time.
func (h *history) since(head int, at time.Duration) []commit {
	i, _ := slices.BinarySearchFunc(h.commits[:head], at, func(c commit, at time.Duration) int { return cmp.Compare(c.at, at) })
	return h.commits[i:head]
}
