package store_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"espalier/internal/desired"
	"espalier/store"
)

// The tests in this file run this test binary again, as a child that writes and
// says on its standard output what was acknowledged, and kill it at random
// moments. ESPALIER_STORE_KILLS says how often.

const childEnv = "ESPALIER_STORE_TEST_CHILD"

func runChild(what string) int {
	kind, dir, _ := strings.Cut(what, ":")
	run := map[string]func(dir string) error{"commit": commitChild, "mirror": mirrorChild, "record": recordChild}[kind]
	if err := run(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func kills(t *testing.T) int {
	n := 100
	if v := os.Getenv("ESPALIER_STORE_KILLS"); v != "" {
		var err error
		if n, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
	}
	if testing.Short() {
		n /= 10
	}
	return n
}

// kill runs a child until it has acknowledged some lines and a moment more, and
// returns the lines.
func kill(t *testing.T, rng *rand.Rand, what string) []string {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+what)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var lines []string
	in := bufio.NewScanner(out)
	for wait := rng.IntN(8); wait > 0 && in.Scan(); wait-- {
		lines = append(lines, in.Text())
	}
	time.Sleep(time.Duration(rng.Int64N(int64(15 * time.Millisecond))))
	_ = cmd.Process.Kill() // it may have failed by itself
	for in.Scan() {
		lines = append(lines, in.Text())
	}
	_ = cmd.Wait()
	if stderr.Len() > 0 {
		t.Fatalf("the child failed: %s", stderr.String())
	}
	return lines
}

// killOptions make commits of more than 20 changes rewrite.
func killOptions() store.Options { return store.Small(quiet, 20) }

// killEdit is the n-th commit: small or, every fifth, large. It always changes
// something.
func killEdit(n uint64) edit {
	e := edit{fmt.Sprintf("n/%06d", n): ptr("")}
	rng := rand.New(rand.NewPCG(n, 0))
	size := 1 + rng.IntN(15)
	if n%5 == 0 {
		size = 80
	}
	for range size {
		k := fmt.Sprintf("k/%03d", rng.IntN(200))
		if rng.IntN(3) == 0 {
			e[k] = nil
		} else {
			e[k] = ptr(fmt.Sprint(n))
		}
	}
	if n > 40 {
		e[fmt.Sprintf("n/%06d", n-40)] = nil
	}
	return e
}

func commitChild(dir string) error {
	s, err := store.Open(dir, killOptions())
	if err != nil {
		return err
	}
	head, _ := s.Head("set") // zero if there is none
	for n := head.Number + 1; ; n++ {
		c := store.Commit{
			Changes: killEdit(n).changes(),
			Expect:  &desired.Position{Number: n - 1},
			Request: store.Request{ID: fmt.Sprint(n)},
		}
		if _, err := s.Commit(context.Background(), "set", c); err != nil {
			return err
		}
		fmt.Println(n)
		if n%37 == 0 {
			if _, err := s.Compact(context.Background(), "set", store.CompactOptions{}); err != nil {
				return err
			}
		}
	}
}

// TestKilledCommits: no acknowledged commit is lost, none is there by half.
func TestKilledCommits(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	m, at := model{}, uint64(0)
	for range kills(t) {
		lines := kill(t, rng, "commit:"+dir)
		acked := at
		if len(lines) > 0 {
			n, err := strconv.ParseUint(lines[len(lines)-1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			acked = n
		}
		path := dir + "/sets/set.db"
		if _, err := os.Stat(path); err != nil && acked == 0 {
			continue // it was killed before there was a set
		}
		if err := store.Probe(path); err != nil {
			t.Fatalf("after commit %d: %v", acked, err)
		}
		s := openStore(t, dir, killOptions())
		head, err := s.Head("set")
		if err != nil || head.Number < acked {
			t.Fatalf("head = %v, %v, but %d was acknowledged", head.Position, err, acked)
		}
		for ; at < head.Number; at++ {
			m = m.apply(killEdit(at + 1))
		}
		view(t, s, "set", func(snap *store.Snapshot) { m.verify(t, snap) })
		checkClean(t, s, "set")
		if t.Failed() {
			t.FailNow()
		}
		s.Close()
	}
	t.Logf("%d commits", at)
	if at < uint64(kills(t)) {
		t.Errorf("only %d commits were made", at)
	}
}

// killModel is the content of the mirrored set at revision n.
func killModel(n uint64) model {
	m := model{}
	for i := range 300 {
		if rng := rand.New(rand.NewPCG(uint64(i), n/uint64(1+i%7))); rng.IntN(5) > 0 {
			m[fmt.Sprintf("k/%03d", i)] = fmt.Sprint(rng.IntN(1000))
		}
	}
	m["n"] = fmt.Sprint(n)
	return m
}

const killSalt = 77

// killHead is the head of the mirrored set at revision n.
func killHead(n uint64) desired.Head {
	m := killModel(n)
	var head desired.Head
	head.Epoch, head.Number = desired.Epoch{1}, n
	head.Root = m.root(killSalt)
	return head
}

// between returns the changes that lead from one model to another.
func between(from, to model) edit {
	e := edit{}
	for k := range from {
		if _, ok := to[k]; !ok {
			e[k] = nil
		}
	}
	for k, v := range to {
		if old, ok := from[k]; !ok || old != v {
			e[k] = &v
		}
	}
	return e
}

func mirrorChild(dir string) error {
	lock, err := store.LockDir(dir, "agent of test")
	if err != nil {
		return err
	}
	defer lock.Close()
	m, err := store.OpenMirror(dir, "set", quiet)
	if err != nil {
		return err
	}
	for {
		n := m.Head().Number + 1
		if err := follow(m, n); err != nil {
			return fmt.Errorf("revision %d: %w", n, err)
		}
		fmt.Println("head", n)
		if err := m.MarkDelivered(m.Head().Position); err != nil {
			return err
		}
		fmt.Println("delivered", n)
	}
}

// follow brings m to revision n: by a delta, by a full copy, or by changing a
// copy of what there is.
func follow(m *store.Mirror, n uint64) error {
	ctx := context.Background()
	st, err := m.Staging()
	if err != nil {
		return err
	}
	have := killModel(n - 1)
	switch {
	case n%3 == 1 && n > 1:
		return m.Adopt(ctx, killHead(n), between(have, killModel(n)).changes())
	case st != nil && (st.Mark() != nil || n%3 == 0):
	case n%3 == 0:
		st, err = m.Stage(ctx, store.StageCopy, killSalt)
	default:
		have = model{}
		st, err = m.Stage(ctx, store.StageEmpty, killSalt)
	}
	if err != nil {
		return err
	}
	if n%3 != 0 {
		have = model{}
	}
	changes := between(have, killModel(n)).list()
	for part := range slices.Chunk(changes, 25) {
		mark := part[len(part)-1].Key
		if string(mark) <= string(st.Mark()) {
			continue // it was staged before
		}
		if err := st.Write(ctx, part, mark); err != nil {
			return err
		}
		fmt.Println("staged", n, string(mark))
	}
	return st.Promote(ctx, killHead(n))
}

// TestKilledMirror: a mirror is always one whole revision, the last
// acknowledged or the one that was coming, and what was staged stays staged.
func TestKilledMirror(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	var head, delivered uint64
	for range kills(t) {
		lines := kill(t, rng, "mirror:"+dir)
		staged, mark := uint64(0), ""
		for _, line := range lines {
			var what, at string
			var n uint64
			if _, err := fmt.Sscan(line+" -", &what, &n, &at); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			switch what {
			case "head":
				head, staged = n, 0
			case "delivered":
				delivered = n
			case "staged":
				staged, mark = n, at
			}
		}
		m := openMirror(t, dir, quiet)
		now := m.Head()
		if now.Number < head || now.Number > head+1 || m.Floor() != now.Revision || m.Delivered().Number < delivered {
			t.Fatalf("mirror at %v with floor %v and %v delivered, after %d and %d were acknowledged",
				now.Position, m.Floor(), m.Delivered(), head, delivered)
		}
		if head = now.Number; head > 0 {
			viewMirror(t, m, func(snap *store.Snapshot) { killModel(head).verify(t, snap) })
			if n, err := m.Repair(t.Context()); n != 0 || err != nil {
				t.Fatalf("Repair = %d, %v", n, err)
			}
		}
		if staged == head+1 {
			st, err := m.Staging()
			if err != nil || st == nil || string(st.Mark()) < mark {
				t.Fatalf("Staging = %v, %v, but %q was acknowledged", st, err, mark)
			}
		}
		m.Close()
		if t.Failed() {
			t.FailNow()
		}
	}
	t.Logf("%d revisions", head)
	if head < uint64(kills(t))/6 {
		t.Errorf("only %d revisions were mirrored", head)
	}
}
