package publish

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"espalier/internal/wire"
)

// retry calls fn, and calls it again, a few times, where no connection can be
// made, or one breaks. What fn does has to be safe to repeat.
func (a *applier) retry(ctx context.Context, fn func() error) error {
	wait := firstBackoff
	for try := 1; ; try++ {
		err := fn()
		if !errors.Is(err, wire.ErrUnreachable) || try > retries {
			return err
		}
		pause := wait*3/4 + rand.N(wait/2)
		a.o.Logger.Warn("trying again", "try", try, "of", retries, "in", pause.Round(time.Millisecond), "error", err)
		if !sleep(ctx, pause) {
			return context.Cause(ctx)
		}
		wait *= 2
	}
}

// sleep waits for d and reports true, or false once ctx is done.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
