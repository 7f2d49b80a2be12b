package apply

import "fmt"

// Dump tells what the loop knows, once it rests.
func (a *Applier) Dump() string {
	text := fmt.Sprintf("flying %v, missed %v, just %v, ready %v, busy %v, under %d, again %v\n", a.flying, a.missed, a.just, a.ready, a.busy, a.under, a.again)
	for key, at := range a.retries.all {
		text += fmt.Sprintf("%s: %+v\n", key, *at)
	}
	for s, err := range a.Plan() {
		text += fmt.Sprintf("plan %+v %v\n", s, err)
	}
	_ = view(a.record, a.routes, a.current(), func(h *host) error {
		for key, err := range h.pending(span{}) {
			o, _ := h.object(key)
			text += fmt.Sprintf("pending %s %v: %v winner %d made %d drifted %v %+v rows %+v wanted %v\n", key, err, h.decide(&o), o.winner, o.made, o.drifted, o.drift, o.rows, o.wanted)
		}
		return nil
	})
	return text
}
