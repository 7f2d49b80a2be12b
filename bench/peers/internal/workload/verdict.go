package workload

import (
	"bytes"
	"fmt"
	"strings"
)

// Verdict says how a copy differs from what it should be.
type Verdict struct {
	Missing int `json:"missing"` // objects that the copy lacks
	Stale   int `json:"stale"`   // objects that have another value in the copy
	Kept    int `json:"kept"`    // objects of the copy that there are not, or twice
}

// Same reports whether the copy doesn't differ.
func (v Verdict) Same() bool { return v == Verdict{} }

// String returns "same", or what is wrong.
func (v Verdict) String() string {
	if v.Same() {
		return "same"
	}
	var parts []string
	for _, p := range []struct {
		n    int
		what string
	}{{v.Missing, "missing"}, {v.Stale, "stale"}, {v.Kept, "deleted but kept"}} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.what))
		}
	}
	return "wrong: " + strings.Join(parts, ", ")
}

// Judge holds a copy against what was made up. each hands over every object of
// the copy once, in any order.
func (w *Workload) Judge(each func(object func(key string, value []byte)) error) (Verdict, error) {
	var v Verdict
	w.judged++
	right, found := make([]byte, ValueBytes), 0
	err := each(func(key string, value []byte) {
		object, ok := w.versions[key]
		if !ok || object.judged == w.judged {
			v.Kept++
			return
		}
		object.judged = w.judged
		found++
		if w.putValue(right, key, object.step); !bytes.Equal(value, right) {
			v.Stale++
		}
	})
	v.Missing = len(w.keys) - found
	return v, err
}
