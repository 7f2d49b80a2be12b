//go:build linux

package file

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"espalier/agent/driver"
	"espalier/internal/desired"
)

// Driver makes objects files and symbolic links, and finds out when they are so no
// longer. It holds nothing open between calls, and is safe for concurrent use.
type Driver struct {
	options   Options
	unmanaged patterns
	uid       uint32
	session   uint32        // of the names of temporary files
	names     atomic.Uint32 // the last of them
	opened    time.Time     // what is older and temporary is left over
	fallback  atomic.Bool   // there is no openat2
	probe     sync.Once     // for markName
	markName  string
	noMarks   bool // for tests: there are no extended attributes
	// each says that this system's syncfs does not tell of what went wrong.
	each bool
	few  int // fewFiles

	watched  watched
	addWatch func(fd int, path string, mask uint32) (int, error)
	mu       sync.Mutex
	swept    map[string]struct{} // folders without leftovers
	// suspect are names of which what is in memory need not be on the disk; beyond
	// maxSuspects, all are.
	suspect    map[string]struct{}
	allSuspect bool
}

// It is all that an agent can make use of.
var (
	_ driver.Driver  = (*Driver)(nil)
	_ driver.Scanner = (*Driver)(nil)
	_ driver.Watcher = (*Driver)(nil)
	_ driver.Batcher = (*Driver)(nil)
)

// New returns a driver that works below o.Root. Where there is nothing yet, as what
// is yet to be mounted, objects fail until there is; anything but a folder is an
// error.
func New(o Options) (*Driver, error) {
	if o.Root == "" {
		return nil, fmt.Errorf("%w root of files: it is empty; name a folder", desired.ErrInvalid)
	}
	if o.MaxWatches < 0 {
		return nil, fmt.Errorf("%w number of watches: %d is less than 0", desired.ErrInvalid, o.MaxWatches)
	}
	unmanaged, err := parsePatterns(o.Unmanaged)
	if err != nil {
		return nil, err
	}
	if o.Root, err = filepath.Abs(o.Root); err != nil {
		return nil, fmt.Errorf("root of files %q: %w", o.Root, err)
	}
	o.MaxWatches = cmp.Or(o.MaxWatches, DefaultMaxWatches)
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	var session [4]byte
	_, _ = rand.Read(session[:]) // documented never to fail
	d := &Driver{
		options: o, unmanaged: unmanaged, uid: uint32(os.Geteuid()), session: binary.BigEndian.Uint32(session[:]),
		opened: time.Now(), each: oldSyncfs(), swept: map[string]struct{}{}, suspect: map[string]struct{}{},
		addWatch: unix.InotifyAddWatch, few: fewFiles,
	}
	switch t, err := d.tree(); {
	case errors.Is(err, unix.ENOENT):
		o.Logger.Warn("objects fail until the root folder is there", "error", err)
	case err != nil:
		return nil, err
	default:
		t.close()
	}
	return d, nil
}

// Batching implements driver.Batcher.
func (d *Driver) Batching() driver.Batching {
	return driver.Batching{
		Objects: batchObjects, Bytes: batchBytes, Parallel: min(runtime.GOMAXPROCS(0), maxParallel), Timeout: batchTimeout,
	}
}

// full returns the path of a name for people.
func (d *Driver) full(name string) string { return filepath.Join(d.options.Root, name) }

// oldSyncfs reports whether syncfs does not tell of errors of writing, as before
// Linux 5.8: then files are made durable one by one.
func oldSyncfs() bool {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return true
	}
	major, rest, _ := strings.Cut(unix.ByteSliceToString(u.Release[:]), ".")
	minor, _, _ := strings.Cut(rest, ".")
	a, err1 := strconv.Atoi(major)
	b, err2 := strconv.Atoi(minor)
	return err1 != nil || err2 != nil || a < 5 || a == 5 && b < 8
}

// distrust remembers names of which a sync has failed.
func (d *Driver) distrust(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.suspect) >= maxSuspects {
		d.allSuspect = true
		return
	}
	d.suspect[name] = struct{}{}
}

// distrusted reports whether what is at a name has to be written anew.
func (d *Driver) distrusted(name string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, ok := d.suspect[name]
	return ok || d.allSuspect
}

// trust is called when a name was written and synced.
func (d *Driver) trust(names []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.suspect) == 0 {
		return
	}
	for _, name := range names {
		delete(d.suspect, name)
	}
}

// Apply implements driver.Driver.
func (d *Driver) Apply(ctx context.Context, changes []driver.Change) []driver.Result {
	results := make([]driver.Result, len(changes))
	t, err := d.tree()
	if err != nil {
		for i := range results {
			results[i] = driver.Result{Err: err, Untouched: true}
		}
		return results
	}
	defer t.close()
	b := newBatch(t, changes, results)
	b.apply(ctx)
	return results
}

// errStopped wraps what ended a call before an object's turn.
func errStopped(ctx context.Context) error {
	return fmt.Errorf("not begun: %w", context.Cause(ctx))
}
