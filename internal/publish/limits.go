package publish

import (
	"time"

	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/store"
)

// Every bound of this package, with its reason.
const (
	// maxLineBytes bounds a line of JSONL: the largest object with each of its
	// bytes as \u00xx, and room for names and white space. Base64 needs less.
	maxLineBytes = 6*desired.MaxEnvelopeBytes + 1<<20
	// maxBase64Bytes is the largest value in base64, without line breaks: it is
	// refused before it is decoded if it has more.
	maxBase64Bytes = (desired.MaxValueBytes + 2) / 3 * 4
	// chunkBytes is how much of an input is parsed at once: some 1,500 lines, so
	// that handing it on costs nothing.
	chunkBytes = 256 << 10
	// maxParsing bounds the bytes of the chunks that are being parsed: enough to
	// keep all parsers busy, and little enough if the lines are as large as can
	// be.
	maxParsing = maxLineBytes + 8*chunkBytes
	// largeChunk is from when on a chunk's memory is collected at once. Only
	// lines of megabytes make such.
	largeChunk = 8 << 20
	// maxParsers bounds the goroutines that parse: beyond, the one that spools
	// can't keep up.
	maxParsers = 4

	// folderEntries is how many entries of a folder are read, and sorted, at
	// once: a folder with fewer comes in the order of its keys.
	folderEntries = 4096
	// readAttempts bounds how often a file is read that changes meanwhile.
	readAttempts = 3

	// directBytes is the largest input that a patch sends without asking first
	// what differs: it fits into one frame.
	directBytes = delta.FrameBytes / 2
	// maxAttempts bounds how often a set is compared again that has moved.
	maxAttempts = 5
	// retries bounds how often a call is made again that had no connection, or
	// whose connection broke; before the first it waits firstBackoff, before each
	// other twice as long as before the last, give or take a quarter: 13 s in all,
	// in which a server can start anew.
	retries      = 6
	firstBackoff = 200 * time.Millisecond
	// progressEvery is how many objects pass between two reports of progress.
	progressEvery = 1024
)

// DefaultMaxDelete is the guard that holds where no other is given: a tenth of
// the objects under the prefix, or ten of them.
var DefaultMaxDelete = store.DeleteLimit{Count: 10, Percent: 10}
