package cli

import (
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// progress shows on standard error how far long work has come; nowhere, unless
// that is a terminal. It is for one goroutine.
type progress struct {
	a    *app
	what string
	unit string
	bar  *progressbar.ProgressBar // nil until there is something to show
}

// progress returns a progress bar that says what is going on, and counts objects.
func (a *app) progress(what string) *progress { return &progress{a: a, what: what, unit: "objects"} }

// in makes the bar count something else than objects; "bytes" get their prefixes,
// and where the unit is empty there is nothing to count, but time passes.
func (p *progress) in(unit string) *progress {
	p.unit = unit
	return p
}

// Update shows that done of total are through; a total of 0 is not known.
func (p *progress) Update(done, total uint64) {
	if !isTerminal(p.a.Err) {
		return
	}
	most := int64(total)
	if total == 0 {
		most = -1
	}
	if p.bar == nil {
		p.bar = progressbar.NewOptions64(most, append(p.counting(), progressbar.OptionSetWriter(p.a.Err),
			progressbar.OptionSetDescription(p.what), progressbar.OptionSetRenderBlankState(true),
			progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())...)
	}
	if most > 0 && most != p.bar.GetMax64() {
		p.bar.ChangeMax64(most)
	}
	if most > 0 {
		done = min(done, total)
	}
	_ = p.bar.Set64(int64(done))
}

// isTerminal reports whether somebody looks at what is written to w.
func isTerminal(w io.Writer) bool {
	if o, ok := w.(*out); ok {
		w = o.to
	}
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// counting are the options for what the bar counts.
func (p *progress) counting() []progressbar.Option {
	switch p.unit {
	case "":
		return nil
	case "bytes":
		return []progressbar.Option{progressbar.OptionShowCount(), progressbar.OptionShowBytes(true)}
	default:
		return []progressbar.Option{
			progressbar.OptionShowCount(), progressbar.OptionSetItsString(p.unit), progressbar.OptionShowIts(),
		}
	}
}

// Finish takes the bar away.
func (p *progress) Finish() {
	if p.bar != nil {
		_ = p.bar.Finish() // or a spinner would go on drawing itself
		_ = p.bar.Clear()
		p.bar = nil
	}
}
