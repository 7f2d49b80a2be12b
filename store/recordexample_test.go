package store_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"espalier/internal/desired"
	"espalier/store"
)

// What a host holds of a set, and what is there otherwise.
func ExampleApplied() {
	dir, err := os.MkdirTemp("", "espalier")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	a, err := store.OpenApplied(dir, "web-01", store.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer a.Close()
	const salt = 7 // that of the set's tree, which the mirror has
	if err := a.Reshape(context.Background(), "web-01", salt); err != nil {
		log.Fatal(err)
	}
	motd, site := []byte("files/motd"), []byte("files/site")
	err = a.Update(store.AppliedUpdate{
		Rows: []store.AppliedRows{{Set: "web-01", Put: []store.AppliedRow{
			{Key: motd, Digest: desired.Digest{1}, Driver: "file /srv", Note: []byte("mode 0644")},
			{Key: site, Digest: desired.Digest{2}, Driver: "file /srv", After: [][]byte{motd}},
		}}},
		Drifted: []store.Drift{{Key: site, Reason: "missing"}},
	})
	if err != nil {
		log.Fatal(err)
	}
	err = a.View(func(v *store.AppliedView) error {
		for key, err := range v.Dependents(motd) {
			if err != nil {
				return err
			}
			fmt.Printf("%s comes after %s\n", key, motd)
		}
		for d, err := range v.Drifts(nil) {
			if err != nil {
				return err
			}
			fmt.Printf("%s: %s\n", d.Key, d.Reason)
		}
		root, err := v.Root("web-01")
		if err != nil {
			return err
		}
		observed, err := v.Observed("web-01")
		fmt.Println("as it was made:", observed == root)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}

	// Output:
	// files/site comes after files/motd
	// files/site: missing
	// as it was made: false
}
