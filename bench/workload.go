package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"iter"
	"math/rand/v2"
	"slices"

	"espalier/internal/desired"
)

// Size is what a workload is a pure function of: the same Size, the same bytes.
type Size struct {
	Objects    int    `json:"objects"`
	ValueBytes int    `json:"value_bytes"`
	Seed       uint64 `json:"seed"`
}

// Workload is a made-up set and the history of its changes. Its keys are like
// svc/00042/object/1f3a90c2, a thousand random ones to a service, its values are
// random bytes. Objects are computed when they are asked for, so that a set of
// millions takes no memory; only keys that changes added or took away are kept.
type Workload struct {
	size Size
	rng  *rand.Rand
	// added and gone are what the change sets so far did to the ids of a
	// service.
	added, gone map[int][]uint32
}

const (
	// serviceObjects is how many objects a service starts with.
	serviceObjects = 1000
	// keyBytes is the length of every key.
	keyBytes = len("svc/00042/object/1f3a90c2")
)

// NewWorkload returns the workload of that size, or an error that matches
// desired.ErrInvalid.
func NewWorkload(size Size) (*Workload, error) {
	if err := checkSizes(size.Objects, size.ValueBytes); err != nil {
		return nil, err
	}
	return &Workload{
		size:  size,
		rng:   rand.New(rand.NewPCG(size.Seed, 1<<63)), // no service has that number
		added: map[int][]uint32{},
		gone:  map[int][]uint32{},
	}, nil
}

// Objects returns the set as it is before any change, ascending by key. What is
// yielded is valid until the next. It ends with an error once ctx is done.
func (w *Workload) Objects(ctx context.Context, progress func(done, total uint64)) iter.Seq2[desired.Change, error] {
	return func(yield func(desired.Change, error) bool) {
		key := make([]byte, keyBytes)
		env := make(desired.Envelope, 1+w.size.ValueBytes)
		for service := range w.services() {
			if ctx.Err() != nil {
				yield(desired.Change{}, context.Cause(ctx))
				return
			}
			if progress != nil {
				progress(uint64(service*serviceObjects), uint64(w.size.Objects))
			}
			values := randomBytes(w.size.Seed, uint64(service))
			for _, id := range w.original(service) {
				putKey(key, service, id)
				_, _ = values.Read(env[1:]) // never fails
				if !yield(desired.Change{Key: key, Envelope: env}, nil) {
					return
				}
			}
		}
	}
}

func (w *Workload) services() int { return (w.size.Objects + serviceObjects - 1) / serviceObjects }

// original returns the ids of a service before any change, ascending.
func (w *Workload) original(service int) []uint32 {
	n := min(serviceObjects, w.size.Objects-service*serviceObjects)
	rng := rand.NewPCG(w.size.Seed, uint64(service))
	ids := make([]uint32, 0, n)
	for len(ids) < n {
		for len(ids) < n {
			ids = append(ids, uint32(rng.Uint64()))
		}
		slices.Sort(ids)
		ids = slices.Compact(ids)
	}
	return ids
}

// ids returns the ids of a service now, ascending.
func (w *Workload) ids(service int) []uint32 {
	ids := w.original(service)
	if added := w.added[service]; len(added) > 0 {
		ids = append(ids, added...)
		slices.Sort(ids)
	}
	for _, id := range w.gone[service] {
		if at, ok := slices.BinarySearch(ids, id); ok {
			ids = slices.Delete(ids, at, at+1)
		}
	}
	return ids
}

// apply notes what an entry does to the ids of its service.
func (w *Workload) apply(e entry) {
	forget := func(from map[int][]uint32) bool {
		at := slices.Index(from[e.service], e.id)
		if at >= 0 {
			from[e.service] = slices.Delete(from[e.service], at, at+1)
		}
		return at >= 0
	}
	switch {
	case e.action == insert && !forget(w.gone):
		w.added[e.service] = append(w.added[e.service], e.id)
	case e.action == remove && !forget(w.added):
		w.gone[e.service] = append(w.gone[e.service], e.id)
	}
}

// Sample returns the keys of n objects that there are now, scattered over the
// set, ascending.
func (w *Workload) Sample(n int) ([][]byte, error) {
	entries, err := w.scatter(make([]action, n))
	if err != nil {
		return nil, err
	}
	keys := make([][]byte, n)
	for i, e := range entries {
		keys[i] = e.key()
	}
	return keys, nil
}

// putKey makes key that of an object; it has keyBytes.
func putKey(key []byte, service int, id uint32) {
	copy(key, "svc/00000/object/00000000")
	for at := len("svc/00000") - 1; service > 0; at-- {
		key[at] = byte('0' + service%10)
		service /= 10
	}
	for at := keyBytes - 1; id > 0; at-- {
		key[at] = "0123456789abcdef"[id%16]
		id /= 16
	}
}

// randomBytes returns an endless stream of bytes that no compressor shortens.
func randomBytes(seed, stream uint64) *rand.ChaCha8 {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	binary.LittleEndian.PutUint64(key[8:], stream)
	return rand.NewChaCha8(key)
}

// errTooFew ends the planning of a change set.
var errTooFew = errors.New("the set has too few objects for so many changes")
