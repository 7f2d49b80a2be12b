package follow

import (
	"errors"

	"espalier/internal/desired"
	"espalier/internal/wire"
)

// reporter knows what the server was told of this host.
type reporter struct {
	now  desired.Report
	seen bool            // there was a sync to tell of
	told *desired.Report // nil: the server wants to be told
}

// due returns what to tell with the next poll, what v says included; nil: nothing
// new.
func (r *reporter) due(v *voice) *desired.Report {
	if !r.seen {
		return nil
	}
	now, told := r.now, (*desired.Convergence)(nil)
	if r.told != nil {
		told = r.told.Applying
	}
	latest, ripe := v.latest(told)
	if now.Applying = latest; !ripe {
		now.Applying = told
	}
	if r.told != nil && r.told.Equal(now) {
		return nil
	}
	now.Applying = latest
	return &now
}

// observe makes what a Sync came upon the report. What only says that the server
// was not there is none of this host's problems.
func (r *reporter) observe(version string, list error, sets []SetReport) {
	now := desired.Report{Agent: version}
	note := func(set desired.Name, err error) {
		if err != nil && !errors.Is(err, wire.ErrUnreachable) {
			now.Problems = append(now.Problems, desired.Problem{Set: set, Text: err.Error(), Refused: errors.Is(err, ErrUnsafe)})
		}
	}
	note("", list)
	for _, s := range sets {
		note(s.Set, s.Err)
	}
	r.now, r.seen = now.Bounded(), true
}
