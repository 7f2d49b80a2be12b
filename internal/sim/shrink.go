package sim

import "espalier/internal/delta"

// Shrink returns a plan that breaks a promise with as few events as it finds, by
// leaving out halves, quarters and so on down to single ones (Zeller and
// Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002).
func (p *Plan) Shrink(codec *delta.Codec) *Plan {
	for size := (len(p.events) + 1) / 2; size > 0; {
		shorter := false
		for i := len(p.events) - size; i >= 0 && size <= len(p.events); i -= size {
			if less := p.without(i, i+size); less.Run(codec) != nil {
				p, shorter = less, true
			}
		}
		if shorter {
			size = min(size, len(p.events))
		} else {
			size /= 2
		}
	}
	return p
}

// Events returns how many events the plan has.
func (p *Plan) Events() int { return len(p.events) }
