package process

import (
	"errors"
	"log/slog"
	"path/filepath"
	"time"
)

// Options are those of a Driver. All but Dir may be zero.
type Options struct {
	// Dir is the folder of what is known of the copies, for one Driver at a time and
	// always the same for the same objects; made if need be, for its owner alone. It
	// has to be on a disk of this host.
	Dir string
	// LogDir is the folder of their logs; empty: log in Dir.
	LogDir string
	// LogBytes bounds a log file, LogFiles the older ones that are kept of each
	// copy; 0: DefaultLogBytes, DefaultLogFiles.
	LogBytes int64
	LogFiles int
	// Shim is the command, and its first arguments, that calls Shim; empty: the
	// program that runs now, with the argument "shim".
	Shim []string
	// OrphanAfter is how long after Watch began it tells of copies for which
	// nobody has asked yet; 0: DefaultOrphanAfter.
	OrphanAfter time.Duration
	Logger      *slog.Logger
}

// complete fills in what was left out.
func (o *Options) complete() error {
	if o.Dir == "" {
		return errors.New("process driver: no folder is given")
	}
	if o.LogBytes < 0 || o.LogFiles < 0 || o.OrphanAfter < 0 {
		return errors.New("process driver: a bound of its logs, or a time, is less than 0")
	}
	var err error
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return err
	}
	if o.LogDir == "" {
		o.LogDir = filepath.Join(o.Dir, "log")
	}
	if o.LogDir, err = filepath.Abs(o.LogDir); err != nil {
		return err
	}
	if o.LogBytes == 0 {
		o.LogBytes = DefaultLogBytes
	}
	if o.LogFiles == 0 {
		o.LogFiles = DefaultLogFiles
	}
	if len(o.Shim) == 0 {
		o.Shim = []string{"/proc/self/exe", "shim"} // it stays the same program if the file is replaced
	}
	if o.OrphanAfter == 0 {
		o.OrphanAfter = DefaultOrphanAfter
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}
