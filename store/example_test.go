package store_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"espalier/internal/desired"
	"espalier/store"
)

// A set at the orchestrator, and its mirror at an agent.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "espalier")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	s, err := store.Open(dir+"/server", store.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()
	changes := func(yield func(desired.Change, error) bool) {
		for _, key := range []string{"motd", "sites/index.html"} {
			env, err := desired.Encode(desired.Object{Key: key, Value: []byte("hello")})
			if !yield(desired.Change{Key: []byte(key), Envelope: env}, err) {
				return
			}
		}
	}
	r, err := s.Commit(ctx, "web-01", store.Commit{Changes: changes, Who: "alice", Why: "first light"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("revision", r.Head.Number, "of", r.Head.Objects, "objects")

	m, err := store.OpenMirror(dir+"/agent", "web-01", store.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	err = s.View("web-01", func(snap *store.Snapshot) error {
		st, err := m.Stage(ctx, store.StageEmpty, snap.Shape().Salt)
		if err != nil {
			return err
		}
		for c, err := range snap.Objects(nil, nil) {
			if err != nil {
				return err
			}
			if err := st.Write(ctx, []desired.Change{c}, c.Key); err != nil {
				return err
			}
		}
		return st.Promote(ctx, snap.Head())
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("mirrored and proven:", m.Head().Root == r.Head.Root)

	// Output:
	// revision 1 of 2 objects
	// mirrored and proven: true
}
