package agent_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"espalier/agent"
	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/store"
)

// host is an agent that a test moves between servers, and whose folder it
// meddles with. Whatever is done to it, its revisions may not go back.
type host struct {
	*agent.Agent
	t      *testing.T
	dir    string
	mirror string       // its file
	held   desired.Head // the latest that it followed
}

func newHost(t *testing.T, o orchestrator) *host {
	t.Helper()
	h := &host{t: t, dir: t.TempDir()}
	h.goTo(o)
	path, err := h.MirrorPath("web-01")
	if err != nil {
		t.Fatal(err)
	}
	h.mirror = path
	return h
}

// goTo restarts the agent against a server.
func (h *host) goTo(o orchestrator) {
	h.t.Helper()
	if h.Agent != nil {
		h.Close()
	}
	h.Agent = open(h.t, agent.Options{Host: "web-01", Dir: h.dir, Server: o.addr})
}

// follows demands that a Sync leads to head and content.
func (h *host) follows(head desired.Head, content map[string]string) agent.SetReport {
	h.t.Helper()
	got := sync(h.t, h.Agent)
	if got.Head.Revision != head.Revision || got.Err != nil {
		h.t.Fatalf("synced to %v, %v, want %v", got.Head, got.Err, head)
	}
	if held := h.held; held.Number > 0 && head.Revision != held.Revision && (head.Number <= held.Number || !head.Follows(held.Revision)) {
		h.t.Errorf("it followed from %v to %v", held.Position, head.Position)
	}
	h.held = head
	h.holds(content)
	return got
}

// refuses demands that a Sync fails, says why in its report, and moves nothing,
// whether the mirror is there or not; also a second time, and after a restart.
func (h *host) refuses(o orchestrator, want error, words string) {
	h.t.Helper()
	var before map[string]string
	if h.held.Number > 0 {
		before = h.content()
	}
	for range 2 {
		for range 2 {
			report, err := h.Sync(h.t.Context())
			s := report.Sets[0]
			if !errors.Is(err, want) || !errors.Is(s.Err, want) || !strings.Contains(s.Err.Error(), words) {
				h.t.Fatalf("Sync = %v, of the set: %v, want %v and %q", err, s.Err, want, words)
			}
			if s.Head.Revision != h.held.Revision {
				h.t.Errorf("the mirror is at %v, want %v", s.Head, h.held)
			}
			h.holds(before)
		}
		h.goTo(o)
	}
}

// holds demands that the mirror has that content; nil: that there is none.
func (h *host) holds(want map[string]string) {
	h.t.Helper()
	if got := h.content(); !maps.Equal(got, want) || (got == nil) != (want == nil) {
		h.t.Errorf("the mirror holds %v, want %v", got, want)
	}
}

func (h *host) content() (objects map[string]string) {
	h.t.Helper()
	err := h.View("web-01", func(s *store.Snapshot) error {
		objects = map[string]string{}
		for c, err := range s.Objects(nil, nil) {
			if err != nil {
				return err
			}
			objects[string(c.Key)] = string(c.Envelope[1:])
		}
		return nil
	})
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		h.t.Fatal(err)
	}
	return objects
}

// loseMirror removes the mirror's file. Nothing is held then, but the floor is.
func (h *host) loseMirror(o orchestrator) {
	h.t.Helper()
	h.Close()
	if err := os.Remove(h.mirror); err != nil {
		h.t.Fatal(err)
	}
	h.goTo(o)
	h.held = desired.Head{}
}

// one is the content of a set of one object.
func one(value any) map[string]string { return map[string]string{"a": fmt.Sprint(value)} }

// copyFolder returns a copy of the folder of a server that is stopped.
func copyFolder(t *testing.T, dir string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

// restore restores the set from a backup.
func (o orchestrator) restore(t *testing.T, path string) desired.Head {
	t.Helper()
	f, err := store.OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	restored, err := o.RestoreFile(t.Context(), "web-01", f, store.Restore{})
	if err != nil {
		t.Fatal(err)
	}
	return restored.Head
}

// TestRestoreAfterManyRevisions restores a backup that is 100 revisions old: the
// content goes back, the numbers don't, and hosts follow wherever they stopped.
func TestRestoreAfterManyRevisions(t *testing.T) {
	o := serve(t)
	backed := map[string]string{"a": "0", "gone": "since"}
	o.publish(t, "web-01", backed)
	backup := filepath.Join(t.TempDir(), "backup")
	if _, err := o.Backup(t.Context(), "web-01", backup); err != nil {
		t.Fatal(err)
	}
	early, current := newHost(t, o), newHost(t, o)
	head := o.publish(t, "web-01", map[string]string{"gone": ""})
	early.follows(head, one(0))
	for i := range 100 {
		head = o.publish(t, "web-01", one(i+1))
		if i%10 == 0 {
			current.follows(head, one(i+1))
		}
	}
	current.follows(head, one(100))
	restored := o.restore(t, backup)
	if restored.Number != head.Number+1 || restored.Epoch == head.Epoch {
		t.Errorf("restored to %v, want the number behind %v, in another epoch", restored.Position, head.Position)
	}
	for _, h := range []*host{early, current} {
		h.follows(restored, backed)
		h.goTo(o)
		h.follows(restored, backed)
	}
}

// TestForkPastTheJournal: a fork is known by the journal. Once that doesn't reach
// the revision any more that a host holds, and the server has a higher one, the
// host follows: by a descent, to what was published, with a higher number. Losing
// the mirror makes no fork unseen.
func TestForkPastTheJournal(t *testing.T) {
	for name, forget := range map[string]func(o orchestrator, h *host) error{
		"journal dropped": func(o orchestrator, _ *host) error { return o.DropHistory(t.Context(), "web-01") },
		"mirror lost": func(o orchestrator, h *host) error {
			h.loseMirror(o)
			h.refuses(o, agent.ErrUnsafe, "its history was forked")
			return o.DropHistory(t.Context(), "web-01")
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			o := serveDir(t, dir)
			o.publish(t, "web-01", one("common"))
			o.stop()
			older := copyFolder(t, dir)
			o = serveDir(t, dir)
			held := o.publish(t, "web-01", one("lost"))
			h := newHost(t, o)
			h.follows(held, one("lost"))
			o.stop()

			o = serveDir(t, older)
			h.goTo(o)
			o.publish(t, "web-01", one("fork"))
			head := o.publish(t, "web-01", one("fork 2"))
			if err := forget(o, h); err != nil {
				t.Fatal(err)
			}
			h.follows(head, one("fork 2"))
		})
	}
}

// TestRecreatedSetIsFollowed deletes a set. The host enforces what it has, also
// over restarts, until there is one of that name again, in an epoch that follows.
func TestRecreatedSetIsFollowed(t *testing.T) {
	dir := t.TempDir()
	o := serveDir(t, dir)
	for i := range 5 {
		o.publish(t, "web-01", one(i))
	}
	h := newHost(t, o)
	head, _ := o.Head("web-01")
	h.follows(head, one(4))
	for round := range 2 {
		if err := o.Delete(t.Context(), "web-01"); err != nil {
			t.Fatal(err)
		}
		h.refuses(o, store.ErrNotFound, "stays in force")
		o.stop()
		o = serveDir(t, dir)
		h.goTo(o)
		h.refuses(o, store.ErrNotFound, "stays in force")
		want := map[string]string{"b": fmt.Sprint(round)}
		h.follows(o.publish(t, "web-01", want), want)
	}
}

// TestLostMirror loses the mirror, and a copy of the floor or none. A server that
// went back is refused; one that didn't is pulled from in full.
func TestLostMirror(t *testing.T) {
	remove := func(path string) error { return os.Remove(path) }
	spoil := func(path string) error { return os.WriteFile(path, []byte("garbage"), 0o600) }
	for name, c := range map[string]struct {
		copy string
		harm func(path string) error
	}{
		"both copies left":   {"", func(string) error { return nil }},
		"the first lost":     {".floor", remove},
		"the second lost":    {".floor2", remove},
		"the first damaged":  {".floor", spoil},
		"the second damaged": {".floor2", spoil},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			o := serveDir(t, dir)
			o.publish(t, "web-01", one(1))
			o.stop()
			older := copyFolder(t, dir)
			good := serveDir(t, dir)
			head := good.publish(t, "web-01", one(2))
			h := newHost(t, good)
			h.follows(head, one(2))
			back := serveDir(t, older)
			h.Close()
			if err := c.harm(h.mirror + c.copy); err != nil {
				t.Fatal(err)
			}
			h.loseMirror(back)
			h.refuses(back, agent.ErrUnsafe, "at revision 1, this host was at 2 already")
			_, err := back.Commit(t.Context(), "web-01", store.Commit{Changes: changes(one("fork"))})
			if !errors.Is(err, store.ErrForked) {
				t.Errorf("Commit = %v, want %v", err, store.ErrForked)
			}
			h.goTo(good)
			if got := h.follows(head, one(2)); got.Mode != delta.Full {
				t.Errorf("mode %v, want %v", got.Mode, delta.Full)
			}
			h.follows(good.publish(t, "web-01", one(3)), one(3))
		})
	}
}

// TestLaggingCopyIsRefused moves a host to an older copy of its server, and back.
func TestLaggingCopyIsRefused(t *testing.T) {
	dir := t.TempDir()
	o := serveDir(t, dir)
	for i := range 5 {
		o.publish(t, "web-01", one(i))
	}
	o.stop()
	lagging := serveDir(t, copyFolder(t, dir))
	good := serveDir(t, dir)
	h := newHost(t, good)
	for i := range 3 {
		h.follows(good.publish(t, "web-01", one(5+i)), one(5+i))
		h.goTo(lagging)
		h.refuses(lagging, agent.ErrUnsafe, fmt.Sprintf("at revision 5, this host was at %d already", 6+i))
		h.goTo(good)
		h.follows(h.held, one(5+i))
	}
	// The copy has noticed: it would be a fork if it went on.
	if _, err := lagging.Commit(t.Context(), "web-01", store.Commit{Changes: changes(one("fork"))}); !errors.Is(err, store.ErrForked) {
		t.Errorf("Commit to the copy = %v, want %v", err, store.ErrForked)
	}
	h.follows(good.publish(t, "web-01", one("last")), one("last"))
}

// TestRetiredEpochIsNotEntered moves a host to a copy of its server that knows
// nothing of the host's epoch and goes on in the one before it, to a higher
// number. Neither that nor an epoch that the copy starts leads on; only a restore
// of what the host holds does.
func TestRetiredEpochIsNotEntered(t *testing.T) {
	dir := t.TempDir()
	o := serveDir(t, dir)
	h := newHost(t, o)
	h.follows(o.publish(t, "web-01", one("epoch 1")), one("epoch 1"))
	o.stop()
	former := serveDir(t, copyFolder(t, dir))
	good := serveDir(t, dir)
	h.goTo(good)
	head, err := good.Renew(t.Context(), "web-01", "test", "epoch 2")
	if err != nil {
		t.Fatal(err)
	}
	h.follows(head, one("epoch 1"))
	h.follows(good.publish(t, "web-01", one("epoch 2")), one("epoch 2"))
	for i := range 10 {
		former.publish(t, "web-01", one(i))
	}

	h.goTo(former)
	h.refuses(former, agent.ErrUnsafe, "does not follow this host's")
	held := h.held
	h.loseMirror(former)
	h.refuses(former, agent.ErrUnsafe, "does not follow this host's")
	h.goTo(good)
	h.follows(held, one("epoch 2"))
	h.goTo(former)
	if _, err := former.Renew(t.Context(), "web-01", "test", "epoch 3"); err != nil {
		t.Fatal(err)
	}
	h.refuses(former, agent.ErrUnsafe, "'espalier restore SET FILE'")

	h.Close()
	restored := former.restore(t, h.mirror)
	h.goTo(former)
	h.follows(restored, one("epoch 2"))
	h.goTo(good) // whose epoch is a retired one now
	h.refuses(good, agent.ErrUnsafe, "does not follow this host's")
}
