package file

import (
	"errors"
	"log/slog"
)

// ErrForeign is what the error of a result matches if something is in the way
// that is not of the driver's making: it is left alone.
var ErrForeign = errors.New("not of this driver's making")

// Options says where a Driver works, and what it leaves alone.
type Options struct {
	// Root is the folder below which the files are. It has to exist; it may be
	// reached through symbolic links, and each call looks it up anew.
	Root string
	// Adopt says that regular files and symbolic links that are in the way are taken
	// over, whoever made them.
	Adopt bool
	// Unmanaged are patterns of names that are left alone, with all below them, as
	// path.Match has them, segment by segment; a segment "**" stands for any number
	// of segments. At most MaxPatterns.
	Unmanaged []string
	// CrossMounts says that mount points below the root are entered; else what is
	// below one is refused. There, files are made durable one by one.
	CrossMounts bool
	// MaxWatches bounds the folders that Watch watches, the first that come; scans
	// find what happens in the others. 0: DefaultMaxWatches.
	MaxWatches int
	// Logger is told what is odd but stops nothing; nil: nobody is.
	Logger *slog.Logger
}
