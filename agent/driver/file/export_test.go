//go:build linux

package file

import "golang.org/x/sys/unix"

// WatchFails makes the system out of watches for d.
func WatchFails(d *Driver) {
	d.addWatch = func(int, string, uint32) (int, error) { return -1, unix.ENOSPC }
}

// WithoutOpenat2 makes d do without openat2, as on an old system.
func WithoutOpenat2(d *Driver) *Driver {
	d.fallback.Store(true)
	return d
}

// WithoutMarks makes d do without extended attributes.
func WithoutMarks(d *Driver) *Driver {
	d.noMarks = true
	return d
}

// WithoutSyncfs makes d sync files one by one.
func WithoutSyncfs(d *Driver) *Driver {
	d.each = true
	return d
}

// Note is what decodeNote returns.
type Note = note

// DecodeNote is decodeNote.
var DecodeNote = decodeNote

// Encode is encode.
func (n note) Encode() []byte { return n.encode() }

// Match reports whether one of the patterns matches the name.
func Match(list []string, name string) (bool, error) {
	p, err := parsePatterns(list)
	return p.match(name), err
}

// WithSyncfs makes d sync the file system however few files there are.
func WithSyncfs(d *Driver) *Driver {
	d.few = 0
	return d
}
