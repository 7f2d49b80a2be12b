package apply

import "fmt"

// Dump tells what the loop knows, once it rests.
func (a *Applier) Dump() string {
	text := fmt.Sprintf("flying %v, missed %v, just %v, ready %v, busy %v, under %d, again %v\n", a.flying, a.missed, a.just, a.ready, a.busy, a.under, a.again)
	for key, at := range a.retries.all {
		text += fmt.Sprintf("%s: %+v\n", key, *at)
	}
	_ = view(a.record, a.routes, a.current(), func(h *host) error {
		text += fmt.Sprintf("list %s, %s\n", h.record.State(stateSets), printOf(a.current()))
		for key, err := range h.everything(span{}) {
			o, _ := h.object(key)
			if what := h.decide(&o); what != nothing {
				text += fmt.Sprintf("%s %v: %v winner %d made %d blind %v drifted %v %q rows", key, err, what, o.winner, o.made, o.blind, o.drifted, o.drift.Reason)
				for i, row := range o.rows {
					text += fmt.Sprintf(" [%s: wants %.4s has %v %.4s %q after %q]", h.sets[i].name, o.wanted[i], row.State, row.Digest, row.Key, row.After)
				}
				text += "\n"
			}
		}
		return nil
	})
	return text
}
