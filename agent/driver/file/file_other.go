//go:build !linux

package file

import (
	"context"
	"errors"
	"fmt"

	"espalier/agent/driver"
)

// Driver is there on Linux alone: elsewhere New returns none.
type Driver struct{}

// New returns an error that matches errors.ErrUnsupported.
func New(Options) (*Driver, error) {
	return nil, fmt.Errorf("driver of files: %w: it needs Linux", errors.ErrUnsupported)
}

// Apply implements driver.Driver.
func (*Driver) Apply(_ context.Context, changes []driver.Change) []driver.Result {
	results := make([]driver.Result, len(changes))
	for i := range results {
		results[i].Err = errors.ErrUnsupported
	}
	return results
}

// Scan implements driver.Scanner.
func (*Driver) Scan(context.Context, driver.Scan) error { return errors.ErrUnsupported }

// Watch implements driver.Watcher.
func (*Driver) Watch(context.Context, func(string)) error { return errors.ErrUnsupported }

// Batching implements driver.Batcher.
func (*Driver) Batching() driver.Batching { return driver.Batching{} }
