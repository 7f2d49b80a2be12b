package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"

	"espalier/store"
)

// shared is the name of a set that all hosts of a world mirror, besides their own.
const shared = "base"

// world is a server, and agents that reach it through a bad network alone; its
// writers are on the server's side. It is for one goroutine.
type world struct {
	t       *testing.T
	rng     *rand.Rand
	dir     string
	server  *daemon
	admin   string
	network *network // between agents and server
	office  *network // between writers and server, always fair
	hosts   []*host

	// published is each revision of each set that was committed, with its root.
	published map[string]map[string]string
	objects   int           // of each set
	nap       time.Duration // that sleepAgents takes
	commits   int
	payload   int64 // keys and values that were committed, once for each host that mirrors them
}

// host is one of a world, over all the lives of its agent.
type host struct {
	name, data string
	lives      []*daemon // the last may run
	seen       []sighting
	read       int // bytes of what the last said, for sightings
}

// sighting is a revision of a set that a host was seen to hold.
type sighting struct{ set, revision, root, by string }

// newWorld makes a world with so many hosts, whose sets have so many objects, and
// waits until all hold them.
func newWorld(t *testing.T, seed uint64, hosts, objects int) *world {
	t.Helper()
	w := &world{
		t: t, rng: rand.New(rand.NewPCG(seed, 0)), dir: t.TempDir(), objects: objects, nap: time.Second,
		network: newNetwork(t, seed), office: newNetwork(t, seed), published: map[string]map[string]string{},
	}
	w.startServer()
	w.commit(shared, objects)
	for _, name := range promptHosts(hosts) {
		h := &host{name: name, data: filepath.Join(w.dir, name)}
		w.hosts = append(w.hosts, h)
		w.commit(name, objects)
		must(t, nil, "", w.as("host", "sets", name, shared, name)...)
		must(t, nil, "", "agent", "--once", "--data", h.data, "--server", w.network.Addr().String(),
			"--join", w.token(name))
		w.startAgent(h)
	}
	w.settle()
	return w
}

// promptHosts returns names of hosts that poll soon after they start: an agent
// begins at a time of its name's, within 30 seconds.
func promptHosts(n int) (names []string) {
	for i := 0; len(names) < n; i++ {
		name := fmt.Sprintf("web-%03d", i)
		if xxhash.Sum64String(name) < 1<<64/30 {
			names = append(names, name)
		}
	}
	return names
}

// as are the flags with which an operator names the server.
func (w *world) as(args ...string) []string {
	return slices.Clip(append(args, "--server", w.office.Addr().String(), "--identity", w.admin))
}

func (w *world) token(host string) string {
	w.t.Helper()
	var d struct{ Token string }
	must(w.t, &d, "", w.as("token", "create", "--host", host)...)
	return d.Token
}

// startServer starts the server, at another address each time, which the networks
// know.
func (w *world) startServer() {
	w.server, w.admin = secured(w.t, filepath.Join(w.dir, "server"))
	w.network.reach(w.server.address)
	w.office.reach(w.server.address)
}

func (w *world) startAgent(h *host) {
	h.read = 0
	h.lives = append(h.lives, start(w.t, "agent", "--data", h.data, "--server", w.network.Addr().String()))
}

// agent returns the agent of a host as it runs now.
func (h *host) agent() *daemon { return h.lives[len(h.lives)-1] }

// killAgent kills an agent, looks at what it leaves, and starts another.
func (w *world) killAgent(h *host) {
	h.agent().kill(syscall.SIGKILL)
	w.inspect(h)
	w.startAgent(h)
}

// sets returns the names of all sets.
func (w *world) sets() []string {
	names := []string{shared}
	for _, h := range w.hosts {
		names = append(names, h.name)
	}
	return names
}

// commit changes so many objects of a set at random.
func (w *world) commit(set string, changes int) {
	w.t.Helper()
	w.commitDuring(set, changes, func() {})
}

// commitDuring is commit, and calls fn meanwhile. A server that is killed and
// started again is asked again by the writer, and commits once.
func (w *world) commitDuring(set string, changes int, fn func()) {
	w.t.Helper()
	var lines strings.Builder
	bytes := 0
	for _, i := range w.rng.Perm(w.objects)[:changes] {
		key, value := w.object(i)
		fmt.Fprintf(&lines, "{\"key\":%q,\"value\":%q}\n", key, value)
		bytes += len(key) + len(value)
	}
	ended := make(chan result)
	go func() { ended <- espalier(w.t, lines.String(), w.as("apply", set, "-f", "-", "-o", "json")...) }()
	fn()
	r := <-ended
	var c commit
	if r.status != 0 || json.Unmarshal([]byte(r.stdout), &c) != nil {
		w.t.Fatalf("apply %s: status %d\n%s%s", set, r.status, r.stdout, r.stderr)
	}
	w.publish(c)
	w.commits++
	if set == shared {
		bytes *= len(w.hosts)
	}
	w.payload += int64(bytes)
}

// object returns the key of an object, and a value that hardly compresses.
func (w *world) object(i int) (key, value string) {
	var b [96]byte
	for i := range b {
		b[i] = byte(w.rng.Uint32())
	}
	return fmt.Sprintf("svc/%02d/obj/%06d", i%20, i), base64.StdEncoding.EncodeToString(b[:])
}

// note notes the head of a set as published.
func (w *world) note(set string) (c commit) {
	w.t.Helper()
	must(w.t, &c, "", w.as("head", set)...)
	w.publish(c)
	return c
}

func (w *world) publish(c commit) {
	if w.published[c.Set] == nil {
		w.published[c.Set] = map[string]string{}
	}
	w.published[c.Set][fmt.Sprintf("%s:%d", c.Epoch, c.Revision)] = c.Root
}

// inspect notes what a host's mirrors hold, whose agent doesn't run.
func (w *world) inspect(h *host) {
	w.t.Helper()
	h.look()
	for _, set := range []string{shared, h.name} {
		f, err := store.OpenFile(filepath.Join(h.data, "sets", set+".db"))
		if err != nil {
			w.t.Errorf("%s: %v", h.name, err)
			continue
		}
		head := f.Head()
		if report, err := f.Check(w.t.Context(), nil); err != nil {
			w.t.Errorf("%s: mirror of %s: %v, %+v", h.name, set, err, report)
		}
		f.Close()
		h.seen = append(h.seen, sighting{set, head.String(), head.Root.String(), "its mirror"})
	}
}

var syncedTo = regexp.MustCompile(`msg=synced set=(\S+) revision=(\S+) root=(\S+)`)

// look notes what the agent has said since it was last looked at.
func (h *host) look() {
	d := h.agent()
	d.mu.Lock()
	text := d.log.String()[h.read:]
	d.mu.Unlock()
	h.read += len(text)
	for _, m := range syncedTo.FindAllStringSubmatch(text, -1) {
		h.seen = append(h.seen, sighting{m[1], m[2], m[3], "its log"})
	}
}

// settle waits until every agent has told the server that it holds its heads.
func (w *world) settle() {
	w.t.Helper()
	const bound = 10 * time.Minute // several times the longest that an agent backs off
	for begun := time.Now(); !w.settled(); {
		if time.Since(begun) > bound {
			w.t.Fatalf("%v after the fault, the hosts are\n%s", bound, espalier(w.t, "", w.as("hosts")...).stdout)
		}
		time.Sleep(400 * time.Millisecond)
	}
}

func (w *world) settled() bool {
	r := must(w.t, nil, "", w.as("hosts", "-o", "json")...)
	current := 0
	for lines := json.NewDecoder(strings.NewReader(r.stdout)); ; {
		var h struct {
			Held []struct{ Current bool }
		}
		if lines.Decode(&h) != nil {
			return current == len(w.hosts)
		}
		if len(h.Held) == 2 && h.Held[0].Current && h.Held[1].Current {
			current++
		}
	}
}

// verdict stops everything and says what is wrong: with what the hosts hold, and
// with what they ever held.
func (w *world) verdict() {
	w.t.Helper()
	for _, h := range w.hosts {
		h.agent().kill(syscall.SIGTERM)
		w.inspect(h)
		for _, set := range []string{shared, h.name} {
			head := w.note(set)
			if is := h.last(set); is.root != head.Root {
				w.t.Errorf("%s holds %+v of %s, which is at %+v", h.name, is, set, head)
			}
		}
		w.history(h)
	}
	must(w.t, nil, "", w.as("check", shared)...)
	if w.t.Failed() {
		for _, h := range w.hosts {
			w.t.Logf("%s, the last agent:\n%s", h.name, h.agent().log.String())
		}
	}
}

// last returns what a host was last seen to hold of a set.
func (h *host) last(set string) (last sighting) {
	for _, s := range h.seen {
		if s.set == set {
			last = s
		}
	}
	return last
}

// history fails the test if a host ever held what was not published, or went back.
func (w *world) history(h *host) {
	w.t.Helper()
	latest := map[string]sighting{}
	for _, s := range h.seen {
		if root := w.published[s.set][s.revision]; root != s.root {
			w.t.Errorf("%s held %+v; what was published as that is %q", h.name, s, root)
		}
		if before := latest[s.set]; number(w.t, s.revision) < number(w.t, before.revision) {
			w.t.Errorf("%s went back from %+v to %+v", h.name, before, s)
		}
		latest[s.set] = s
	}
}

// number returns that of a revision; 0 for none. No epoch is begun here.
func number(t *testing.T, revision string) (n uint64) {
	t.Helper()
	if revision == "" {
		return 0
	}
	_, digits, _ := strings.Cut(revision, ":")
	if _, err := fmt.Sscan(digits, &n); err != nil {
		t.Fatalf("revision %q: %v", revision, err)
	}
	return n
}
