package peer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"espalier/bench/peers/internal/meter"
	"espalier/bench/peers/internal/workload"
)

// rsyncSlow is from how many files on rsync is measured only once: making,
// syncing, reading and removing them takes minutes.
const rsyncSlow = 100_000

// Rsync is rsync's daemon over a tree of files, one for each object.
func Rsync() Kind {
	k := Kind{
		Name: "rsync daemon", Keeps: "both ends as files, not synced", SlowFrom: rsyncSlow,
		Ways:  []Way{{Name: "run again", Does: []Scenario{First, Warm, Nothing, Gone}}},
		Start: startRsync,
	}
	out, err := exec.Command("rsync", "--version").Output()
	if err != nil {
		k.Absent = "there is no rsync: apt-get install rsync"
		return k
	}
	if words := strings.Fields(string(out)); len(words) > 2 {
		k.Version = words[2]
	}
	return k
}

type rsync struct {
	process *meter.Process
	addr    string
	dir     string // of the files
	commits uint64
}

const rsyncConfig = `use chroot = no
log file = /dev/null
uid = %d
gid = %d
[objects]
path = %s
read only = yes
`

func startRsync(ctx context.Context, env Env) (Peer, error) {
	p := &rsync{dir: filepath.Join(env.Dir, "served")}
	if err := os.Mkdir(p.dir, 0o755); err != nil {
		return nil, err
	}
	config := filepath.Join(env.Dir, "rsyncd.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, rsyncConfig, os.Getuid(), os.Getgid(), p.dir), 0o644); err != nil {
		return nil, err
	}
	addr, err := meter.FreeAddr()
	if err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	p.process, p.addr, err = startListening(ctx,
		exec.Command("rsync", "--daemon", "--no-detach", "--address", host, "--port", port, "--config", config), addr)
	return p, err
}

func (p *rsync) Addr() string                 { return p.addr }
func (p *rsync) Process() *meter.Process      { return p.process }
func (p *rsync) Close() error                 { return p.process.Stop() }
func (p *rsync) Forget(context.Context) error { return nil } // there is none

func (p *rsync) Load(ctx context.Context, batches iter.Seq[[]workload.Change]) (uint64, error) {
	return loadByCommits(ctx, p, batches)
}

// Commit writes files. Each commit's are a second younger than those before:
// rsync takes a file of the same size and second for unchanged.
func (p *rsync) Commit(ctx context.Context, changes []workload.Change) (uint64, error) {
	p.commits++
	when := time.Unix(1_700_000_000+int64(p.commits), 0)
	last := ""
	for _, c := range changes {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		path := filepath.Join(p.dir, c.Key)
		if c.Value == nil {
			if err := os.Remove(path); err != nil {
				return 0, err
			}
			continue
		}
		if dir := filepath.Dir(path); dir != last {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return 0, err
			}
			last = dir
		}
		if err := errors.Join(os.WriteFile(path, c.Value, 0o644), os.Chtimes(path, when, when)); err != nil {
			return 0, err
		}
	}
	return p.commits, nil
}

func (p *rsync) NewClient(_ Way, addr, dir string) (Client, error) {
	return &rsyncClient{url: "rsync://" + addr + "/objects/", dir: dir}, nil
}

// rsyncClient runs rsync whenever it is to have something.
type rsyncClient struct{ url, dir string }

func (c *rsyncClient) CatchUp(ctx context.Context, _ uint64) error {
	p, err := meter.Start(exec.Command("rsync", "-rt", "--delete", c.url, c.dir+"/"))
	if err != nil {
		return err
	}
	return p.Wait(ctx)
}

func (c *rsyncClient) Follow(context.Context) error                 { return nil } // it can't
func (c *rsyncClient) Await(ctx context.Context, mark uint64) error { return c.CatchUp(ctx, mark) }
func (c *rsyncClient) Check(context.Context) error                  { return errors.ErrUnsupported }
func (c *rsyncClient) Leave() error                                 { return nil }
func (c *rsyncClient) Close() error                                 { return os.RemoveAll(c.dir) }

func (c *rsyncClient) Each(object func(key string, value []byte)) error {
	root := os.DirFS(c.dir)
	return fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		value, err := fs.ReadFile(root, name)
		if err == nil {
			object(name, value)
		}
		return err
	})
}
