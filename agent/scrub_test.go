package agent

import (
	"bytes"
	"fmt"
	"os"
	"testing"

	"google.golang.org/grpc/credentials/insecure"

	"espalier/internal/desired"
	"espalier/store"
)

// TestScrubFindsFlippedBytes damages a value that nobody reads: a few steps of
// the scrub find it, and the mirror says so; also where each object is larger
// than a step.
func TestScrubFindsFlippedBytes(t *testing.T) {
	for _, budget := range []int{4000, 1} {
		t.Run(fmt.Sprint(budget), func(t *testing.T) { testScrub(t, budget) })
	}
}

func testScrub(t *testing.T, budget int) {
	dir := t.TempDir()
	o := Options{Host: "web-01", Dir: dir, Server: "127.0.0.1:1", Credentials: insecure.NewCredentials()}
	a, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	m := mirrorOf(a.follower.Sets()[0])
	st, err := m.Stage(t.Context(), store.StageEmpty, 1)
	if err != nil {
		t.Fatal(err)
	}
	var changes []desired.Change
	for i := range 1000 {
		changes = append(changes, desired.Change{
			Key: fmt.Appendf(nil, "%04d", i), Envelope: fmt.Appendf(desired.Envelope{0}, "value to be found %04d", i),
		})
	}
	if err := st.Write(t.Context(), changes, nil); err != nil {
		t.Fatal(err)
	}
	root, err := st.Root()
	if err != nil {
		t.Fatal(err)
	}
	head := desired.Head{Revision: desired.Revision{Position: desired.Position{Epoch: desired.Epoch{1}, Number: 1}, Root: root}}
	if err := st.Promote(t.Context(), head); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(m.Path())
	if err != nil {
		t.Fatal(err)
	}
	file[bytes.Index(file, []byte("found 0777"))] ^= 4
	if err := os.WriteFile(m.Path(), file, 0o600); err != nil {
		t.Fatal(err)
	}

	if a, err = Open(o); err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	steps := 0
	for ; !a.follower.Sets()[0].Damaged() && steps < 1000; steps++ {
		if err := a.scrub(t.Context(), budget); err != nil {
			t.Fatal(err)
		}
	}
	if steps == 0 || !a.follower.Sets()[0].Damaged() {
		t.Errorf("damaged after %d steps: %v", steps, a.follower.Sets()[0].Damaged())
	}
}
