package main

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"espalier/internal/desired"
	"espalier/internal/onhost"
)

// managed is a host whose agent makes its state true by a configuration, and the
// server of it. Its set bears its name.
type managed struct {
	t       *testing.T
	dir     string
	server  *daemon
	address string // by which the agent reaches the server
	name    string
	root    string         // of its files
	want    desired.Digest // the host root of what was published last
}

// manage makes a host whose configuration is a text, in which $ROOT stands for the
// folder of its files, and $DIR for one that is the test's.
func manage(t *testing.T, config string) *managed {
	t.Helper()
	m := &managed{t: t, dir: t.TempDir(), name: promptHosts(1)[0]}
	m.root = filepath.Join(m.dir, "root")
	if err := os.Mkdir(m.root, 0o755); err != nil {
		t.Fatal(err)
	}
	m.server = serve(t, filepath.Join(m.dir, "server"))
	m.address = m.server.address
	m.configure(config)
	return m
}

// configure writes the agent's configuration.
func (m *managed) configure(config string) {
	m.t.Helper()
	text := fmt.Sprintf("host: %s\nserver: %s\ndata: %s\n", m.name, m.address, m.data()) +
		os.Expand(config, func(name string) string { return map[string]string{"ROOT": m.root, "DIR": m.dir}[name] })
	if err := os.WriteFile(m.config(), []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

func (m *managed) config() string { return filepath.Join(m.dir, "agent.yaml") }

func (m *managed) data() string { return filepath.Join(m.dir, "agent") }

// file returns the path of one of the host's files.
func (m *managed) file(name string) string { return filepath.Join(m.root, filepath.FromSlash(name)) }

// agent are the arguments that run the host's agent.
func (m *managed) agent(args ...string) []string {
	return append([]string{"agent", "--config", m.config(), "--insecure"}, args...)
}

// local runs a command that asks the agent on its host.
func (m *managed) local(args ...string) result {
	m.t.Helper()
	return espalier(m.t, "", append(append([]string{"agent"}, args...), "--data", m.data())...)
}

// start starts the agent.
func (m *managed) start(args ...string) *daemon {
	m.t.Helper()
	return start(m.t, m.agent(args...)...)
}

// once is what agent --once says to programs.
type once struct {
	synced
	Applying desired.Convergence
}

// once runs the agent once; it has to end with a status.
func (m *managed) once(status int, args ...string) (o once, r result) {
	m.t.Helper()
	r = espalier(m.t, "", m.agent(append(args, "--once", "-o", "json")...)...)
	if err := json.Unmarshal([]byte(r.stdout), &o); err != nil || r.status != status {
		m.t.Fatalf("agent --once: status %d, want %d; %v\n%s%s", r.status, status, err, r.stdout, r.stderr)
	}
	return o, r
}

// converge runs the agent once, after which the host has to be what was published,
// and returns how many objects it applied.
func (m *managed) converge() uint64 {
	m.t.Helper()
	o, _ := m.once(0)
	if !m.isConverged(o.Applying) || o.Failed > 0 {
		m.t.Fatalf("agent --once: %+v, want it converged on %v", o, m.want)
	}
	return o.Applied
}

func (m *managed) isConverged(c desired.Convergence) bool {
	return c.State == desired.Converged && c.Desired == m.want && c.Applied == m.want && c.Observed == m.want
}

// publish runs a command that changes the host's set.
func (m *managed) publish(stdin string, args ...string) {
	m.t.Helper()
	var c commit
	must(m.t, &c, stdin, m.server.at(args...)...)
	root, err := desired.ParseDigest(c.Root)
	if err != nil {
		m.t.Fatal(err)
	}
	m.want = desired.HostRoot([]desired.SetRoot{{Set: desired.Name(m.name), Root: root}})
}

// set gives an object a value.
func (m *managed) set(key, value string) {
	m.t.Helper()
	m.publish("", "set", m.name, key, value)
}

// lines makes objects of lines of JSON.
func (m *managed) lines(lines ...string) {
	m.t.Helper()
	m.publish(strings.Join(lines, "\n"), "apply", m.name, "-f", "-")
}

// await waits until what the running agent says of its host is as fn wants it, and
// returns that.
func (m *managed) await(what string, fn func(c desired.Convergence) bool) (c desired.Convergence) {
	m.t.Helper()
	asked := onhost.NewClient(m.data())
	until(m.t, func() string { return fmt.Sprintf("%s; it is at %+v, and %v was published", what, c, m.want) }, func() bool {
		s, err := asked.Status(m.t.Context())
		if err != nil {
			if !errors.Is(err, onhost.ErrNotRunning) {
				m.t.Fatal(err)
			}
			return false
		}
		c = *s.Applying
		return fn(c)
	})
	return c
}

// settle waits until the running agent says that the host is what was published.
func (m *managed) settle() desired.Convergence {
	m.t.Helper()
	return m.await("the host converges", m.isConverged)
}

// until waits for a condition, for minutes if need be.
func until(t *testing.T, what func() string, done func() bool) {
	t.Helper()
	const bound = 4 * time.Minute
	for begun := time.Now(); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Since(begun) > bound {
			t.Fatalf("waited %v until %s", bound, what())
		}
	}
}

// holds returns the content of a file; absent: there is none.
func (m *managed) holds(name string) string {
	m.t.Helper()
	b, err := os.ReadFile(m.file(name))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return absent
	case err != nil:
		m.t.Fatal(err)
	}
	return string(b)
}

const absent = "(absent)"

// wants fails the test unless a file has a content.
func (m *managed) wants(name, content string) {
	m.t.Helper()
	if got := m.holds(name); got != content {
		m.t.Errorf("file %s holds %q, want %q", name, got, content)
	}
}

// programs returns the processes of an object that run a program, in their order.
func programs(object, program string) (pids []int) {
	for _, pid := range processes(object) {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if word, _, _ := strings.Cut(string(text), "\x00"); word == program {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids
}

// processes returns the processes that bear an object's name: its shims, its
// programs and what those have started.
func processes(object string) (pids []int) {
	entries, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range entries {
		env, _ := os.ReadFile(filepath.Join(dir, "environ"))
		args, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		if strings.Contains("\x00"+string(env), "\x00ESPALIER_NAME="+object+"\x00") ||
			strings.Contains(string(args), "\x00shim\x00--\x00"+object+"\x00") {
			var pid int
			if _, err := fmt.Sscanf(filepath.Base(dir), "%d", &pid); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// endProcesses ends all that an object left behind, once the agents of the test
// have ended; call it before they are started.
func endProcesses(t *testing.T, object string) {
	t.Helper()
	t.Cleanup(func() {
		var left []int
		until(t, func() string { return fmt.Sprintf("processes %v of %s end", left, object) }, func() bool {
			left = processes(object)
			for _, pid := range left {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			return len(left) == 0
		})
	})
}

// sleepers waits until an object has so many copies of a program that sleeps, and
// no other process that does, and returns them.
func (m *managed) sleepers(object string, n int) (pids []int) {
	m.t.Helper()
	until(m.t, func() string { return fmt.Sprintf("%d copies run; %v do", n, pids) }, func() bool {
		pids = programs(object, sleeper)
		return len(pids) == n
	})
	return pids
}

// sleeper is a harmless program, which ends by itself once nobody needs it.
const sleeper = "/bin/sleep"

// sleeping returns an object's value: so many copies of it.
func sleeping(replicas int) string {
	return fmt.Sprintf(`{"argv":[%q,"1200"],"replicas":%d,"ready_after":"0s"}`, sleeper, replicas)
}

// listing returns what is below a folder by path: of a file its mode and a digest of
// its content, of a link its target.
func listing(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		switch info, err := e.Info(); {
		case err != nil:
			return err
		case e.IsDir():
			all[name] = "folder"
		case e.Type()&os.ModeSymlink != 0:
			target, err := os.Readlink(path)
			all[name] = "link to " + target
			return err
		default:
			b, err := os.ReadFile(path)
			all[name] = fmt.Sprintf("%v %x", info.Mode(), sha256.Sum256(b))
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// same fails the test where two folders differ in anything, and names some of it.
func same(t *testing.T, what, want, got string) {
	t.Helper()
	a, b := listing(t, want), listing(t, got)
	names := maps.Clone(a)
	maps.Copy(names, b)
	differ := 0
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if a[name] == b[name] {
			continue
		}
		if differ++; differ <= 5 {
			t.Errorf("%s: %s is %.60q, want %.60q", what, name, b[name], a[name])
		}
	}
	if differ > 0 {
		t.Fatalf("%s: %d of %d files, links and folders differ", what, differ, len(names))
	}
	if len(a) < 2 {
		t.Fatalf("%s: %s is empty", what, want)
	}
}
