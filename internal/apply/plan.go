package apply

import (
	"bytes"
	"iter"

	"espalier/internal/desired"
)

// Step is what would be done about one object.
type Step struct {
	Key string `json:"key"`
	// Action is "create", "update", "delete" or "correct".
	Action string `json:"action"`
	// Set is the one that has the object; empty: none has it any more.
	Set desired.Name `json:"set,omitempty"`
	// Driver is the name of its route.
	Driver string `json:"driver"`
	// Why says what drifted, of what is to be corrected.
	Why string `json:"why,omitempty"`
	// Bytes are those of its value.
	Bytes int `json:"bytes"`
}

// Plan returns what would be done if everything might be, deletions included, in
// key order. It changes nothing on the host. What changes while it is read shows or
// doesn't.
func (a *Applier) Plan() iter.Seq2[Step, error] {
	return func(yield func(Step, error) bool) {
		var from []byte
		for more := true; more; {
			var steps []Step
			err := view(a.record, a.routes, a.current(), func(h *host) error {
				more = false
				for key, err := range h.pending(span{from: from}) {
					if err != nil {
						return err
					}
					if len(steps) == scanChunk {
						from, more = bytes.Clone(key), true
						return nil
					}
					step, ok, err := h.step(key)
					if err != nil {
						return err
					}
					if ok {
						steps = append(steps, step)
					}
				}
				return nil
			})
			for _, s := range steps {
				if !yield(s, nil) {
					return
				}
			}
			if err != nil {
				yield(Step{}, err)
				return
			}
		}
	}
}

// step returns what would be done about a key; ok is false where that is nothing
// on the host.
func (h *host) step(key []byte) (s Step, ok bool, err error) {
	o, err := h.object(key)
	if err != nil {
		return s, false, err
	}
	a := h.decide(&o)
	if !a.driven() {
		return s, false, nil
	}
	s = Step{Key: string(key), Action: a.String(), Driver: o.route.Name}
	if o.drifted {
		s.Why = o.drift.Reason
	}
	if o.winner >= 0 {
		s.Set = h.sets[o.winner].name
		_, value, err := o.content.Split()
		if err != nil {
			return s, false, err
		}
		s.Bytes = len(value)
	}
	return s, true, nil
}
