package cli

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"espalier/internal/desired"
	"espalier/internal/fleet"
	"espalier/internal/wire"
)

// progressOf returns how a host fares with making true what it mirrors, in a few
// words; "": it only mirrors, and was told nothing.
func progressOf(h wire.HostInfo) string {
	p, c := h.Progress(), h.Report.Applying
	var words []string
	switch p {
	case fleet.OnlyMirrors:
	case fleet.Failing:
		words = append(words, fmt.Sprintf("%v (%s)", p, grouped(c.Failed)))
	case fleet.Guarded:
		words = append(words, fmt.Sprintf("%v (%s)", p, grouped(c.Guarded)))
	case fleet.Applying:
		words = append(words, fmt.Sprintf("%v (%s left)", p, grouped(c.Pending)))
	default:
		words = append(words, p.String())
	}
	heard := h.ListState != fleet.ListBehind
	switch {
	case h.List.Paused == (p == fleet.Paused):
	case h.List.Paused && heard:
		words = append(words, "told to pause")
	case h.List.Paused:
		words = append(words, "to be paused")
	case heard:
		words = append(words, "told to go on")
	default:
		words = append(words, "to be resumed")
	}
	return strings.Join(words, ", ")
}

// needsLook reports whether an operator may want to know of a host: one that is as
// it shall be needs none, nor one that waits for its window, or is not to change
// anything by its own configuration.
func needsLook(h wire.HostInfo) bool {
	if h.State != fleet.InStep || h.List.Paused {
		return true
	}
	switch h.Progress() {
	case fleet.OnlyMirrors, fleet.Converged, fleet.Detecting, fleet.Closed:
		return false
	}
	return true
}

// printOrders says what an operator has told a host.
func (a *app) printOrders(h wire.HostInfo) {
	if h.List.Paused {
		fmt.Fprintf(a.Out, "paused      %s\n", cmp.Or(printable(h.List.Why), "nobody said why"))
	}
	if !h.List.Release.IsZero() {
		fmt.Fprintf(a.Out, "released    the deletions that lead to root %s, with version %d\n", short(h.List.Release), h.List.Released)
	}
}

// printProgress says how far a host is with making true what it mirrors.
func (a *app) printProgress(h wire.HostInfo) {
	c := h.Report.Applying
	if c == nil {
		return
	}
	state := progressOf(h)
	if c.Reason != "" {
		state += ": " + printable(c.Reason)
	}
	fmt.Fprintf(a.Out, "applying    %s\n", state)
	a.printMatch(c, fmt.Sprintf("espalier host release %s", h.Name))
}

// printMatch says how far a host is, but for its state. The command is the one
// that lets deletions through.
func (a *app) printMatch(c *desired.Convergence, release string) {
	if c.Desired == c.Applied && c.Desired == c.Observed {
		fmt.Fprintf(a.Out, "root        %s, desired, applied and observed\n", short(c.Desired))
	} else {
		fmt.Fprintf(a.Out, "roots       desired %s, applied %s, observed %s\n", short(c.Desired), short(c.Applied), short(c.Observed))
	}
	fmt.Fprintf(a.Out, "objects     %s%s\n", grouped(c.Objects), countsOf(c))
	if c.Found > 0 {
		fmt.Fprintf(a.Out, "drift       %s found, %s corrected, since the agent started\n", grouped(c.Found), grouped(c.Corrected))
	}
	if c.Guarded > 0 {
		fmt.Fprintf(a.Out, "guarded     %s; '%s' lets them through\n", counted(c.Guarded, "deletion"), release)
	}
	if text := stages(c.Stages); text != "" {
		fmt.Fprintf(a.Out, "last change %s\n", text)
	}
}

// countsOf returns what there is to say of objects beyond their number, each with a
// comma before it.
func countsOf(c *desired.Convergence) (text string) {
	for _, n := range []struct {
		n    uint64
		what string
	}{{c.Pending, "pending"}, {c.Failed, "failed"}, {c.Unmanaged, "unmanaged"}, {c.Drifted, "drifted"}} {
		if n.n > 0 {
			text += fmt.Sprintf(", %s %s", grouped(n.n), n.what)
		}
	}
	return text
}

// short returns the digits of a root that are shown to people.
func short(d desired.Digest) string {
	if d.IsZero() {
		return "none"
	}
	return d.String()[:16]
}

// stages returns what the latest change took, as far as that is known.
func stages(s desired.Stages) string {
	var all []string
	for _, stage := range []struct {
		took time.Duration
		what string
	}{{s.Waited, "waited"}, {s.Transferred, "transferred"}, {s.Applied, "applied"}} {
		if stage.took > 0 {
			all = append(all, stage.what+" "+brief(stage.took))
		}
	}
	return strings.Join(all, " · ")
}

// brief returns d for people, to about three digits.
func brief(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return d.Round(time.Microsecond).String()
	case d < time.Second:
		return d.Round(100 * time.Microsecond).String()
	}
	return waits(d)
}

// printFailed shows what has failed on a host, as far as it was told; nil: nothing
// was.
func (a *app) printFailed(c *desired.Convergence) error {
	if c == nil || len(c.Failures) == 0 {
		return nil
	}
	fmt.Fprintln(a.Out)
	t := a.table("FAILED", "ATTEMPTS", "SINCE", "NEXT", "WHY")
	numbers(t, 2)
	for _, f := range c.Failures {
		t.AppendRow([]any{printable(f.Key), f.Attempts, clock(f.Since), clock(f.Next), printable(f.Error)})
	}
	if err := a.printTable(t); err != nil {
		return err
	}
	if more := c.More(); more > 0 {
		fmt.Fprintf(a.Out, "and %s more\n", grouped(more))
	}
	return nil
}

// clock returns a time of a host's for people; "": it is not known.
func clock(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format(time.RFC3339)
}
