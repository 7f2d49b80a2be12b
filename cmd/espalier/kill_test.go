package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// kills is how many processes each of these tests kills.
func kills(t *testing.T) int {
	if testing.Short() {
		return 5
	}
	return 45
}

// TestAgentKilled kills an agent at random moments of a full sync, and of a
// descent in which most of the objects differ. Whatever it had then, it resumes
// and ends with the root that was published.
func TestAgentKilled(t *testing.T) {
	dir := t.TempDir()
	server := serve(t, filepath.Join(dir, "server"))
	must(t, nil, "", server.at("apply", "web-01", "-f", write(t, dir, 40_000, 1))...)
	synced := filepath.Join(dir, "synced")
	must(t, nil, "", server.at("agent", "--once", "--host", "web-01", "--data", synced)...)
	t.Run("full", func(t *testing.T) {
		killAgents(t, server, func(data string) {})
	})
	must(t, nil, "", server.at("apply", "web-01", "-f", write(t, dir, 30_000, 2))...)
	must(t, nil, "", server.at("compact", "web-01", "--drop-history")...)
	t.Run("descent", func(t *testing.T) {
		killAgents(t, server, func(data string) {
			if err := os.CopyFS(data, os.DirFS(synced)); err != nil {
				t.Fatal(err)
			}
		})
	})
}

// killAgents runs agents on folders that prepare makes, until enough were
// killed; each folder until an agent gets through.
func killAgents(t *testing.T, server *daemon, prepare func(data string)) {
	var head commit
	must(t, &head, "", server.at("head", "web-01")...)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	killed, finished := 0, 0
	for killed < kills(t) {
		data := filepath.Join(t.TempDir(), "agent")
		prepare(data)
		longest := 400 * time.Millisecond // and more after each kill, for machines on which that is nothing
		for through := false; !through; {
			c := exec.Command(os.Args[0], server.at("agent", "--once", "--host", "web-01", "--data", data, "-o", "json")...)
			var out bytes.Buffer
			c.Stdout = &out
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			timer := time.AfterFunc(time.Duration(r.Int64N(int64(longest))), func() { c.Process.Signal(syscall.SIGKILL) })
			err := c.Wait()
			timer.Stop()
			if c.ProcessState.ExitCode() == -1 {
				killed++
				longest += longest / 8
				continue
			}
			var s synced
			if err != nil || json.Unmarshal(out.Bytes(), &s) != nil {
				t.Fatalf("after %d kills: %v, %s", killed, err, out.String())
			}
			if got := s.Sets[0]; got.Root != head.Root || got.Revision != head.Revision {
				t.Fatalf("after %d kills: %+v, want %+v", killed, got, head)
			}
			through = true
			finished++
		}
		must(t, nil, "", "check", "web-01", "--data", mirrorAsStore(t, data))
	}
	t.Logf("%d kills, %d folders", killed, finished)
}

// mirrorAsStore returns a folder that check accepts, with an agent's mirror.
func mirrorAsStore(t *testing.T, data string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "sets"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(data, "sets", "web-01.db"), filepath.Join(dir, "sets", "web-01.db")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestServerKilled kills a server at random moments of a stream of commits: each
// that was acknowledged is there afterwards, and nothing is half done.
func TestServerKilled(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "server")
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	acknowledged, commits := uint64(0), 0
	for range kills(t) / 3 {
		server := serve(t, data)
		if commits > 0 {
			var head commit
			must(t, &head, "", server.at("head", "s")...)
			if head.Revision < acknowledged {
				t.Fatalf("revision %d was acknowledged, the head is %d", acknowledged, head.Revision)
			}
			must(t, nil, "", server.at("check", "s")...)
			want := fmt.Sprint(acknowledged)
			if r := must(t, nil, "", server.at("get", "s", "counter/"+want)...); r.stdout != want {
				t.Fatalf("commit %s reads %q", want, r.stdout)
			}
			acknowledged = head.Revision
		}
		time.AfterFunc(time.Duration(r.Int64N(int64(300*time.Millisecond))), func() { server.Process.Signal(syscall.SIGKILL) })
		for {
			next := acknowledged + 1
			result := espalier(t, "", server.at("set", "s", fmt.Sprintf("counter/%d", next), fmt.Sprint(next))...)
			if result.status != 0 {
				break
			}
			acknowledged, commits = next, commits+1
		}
		<-server.ended
	}
	t.Logf("%d commits acknowledged", commits)
}
