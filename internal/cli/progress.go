package cli

import (
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
	bar  *progressbar.ProgressBar // nil until there is something to show
}

// progress returns a progress bar that says what is going on.
func (a *app) progress(what string) *progress { return &progress{a: a, what: what} }

// Update shows that done of total objects are through.
func (p *progress) Update(done, total uint64) {
	f, ok := p.a.Err.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return
	}
	if p.bar == nil {
		p.bar = progressbar.NewOptions64(int64(total), progressbar.OptionSetWriter(f),
			progressbar.OptionSetDescription(p.what), progressbar.OptionShowCount(),
			progressbar.OptionSetItsString("objects"), progressbar.OptionShowIts(),
			progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())
	}
	if int64(total) != p.bar.GetMax64() {
		p.bar.ChangeMax64(int64(total))
	}
	_ = p.bar.Set64(int64(min(done, total)))
}

// Finish takes the bar away.
func (p *progress) Finish() {
	if p.bar != nil {
		_ = p.bar.Finish()
		p.bar = nil
	}
}
