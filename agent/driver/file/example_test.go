//go:build linux

package file_test

import (
	"context"
	"fmt"
	"iter"
	"log"
	"os"
	"path/filepath"

	"espalier/agent/driver"
	"espalier/agent/driver/file"
	"espalier/internal/desired"
)

// A driver makes a file, and finds out that somebody wrote to it.
func Example() {
	root, err := os.MkdirTemp("", "site-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(root)
	d, err := file.New(file.Options{Root: root})
	if err != nil {
		log.Fatal(err)
	}
	o := &desired.Object{Key: "files/etc/motd", Value: []byte("welcome\n"), Attributes: map[string]string{"mode": "0640"}}
	results := d.Apply(context.Background(), []driver.Change{{Key: o.Key, Name: "etc/motd", Object: o}})
	if err := results[0].Err; err != nil {
		log.Fatal(err)
	}
	path := filepath.Join(root, "etc/motd")
	st, err := os.Stat(path)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(st.Mode(), st.Size(), "bytes")

	if err := os.WriteFile(path, []byte("WELCOME\n"), 0); err != nil {
		log.Fatal(err)
	}
	err = d.Scan(context.Background(), driver.Scan{
		Objects: one(driver.Known{Key: o.Key, Name: "etc/motd", Note: results[0].Note}),
		Load:    func(string) (*desired.Object, error) { return o, nil },
		Spend:   func(context.Context, int, int) error { return nil },
		Report:  func(k driver.Known, f driver.Finding) { fmt.Printf("%s: %s\n", k.Name, f.Drift) },
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// -rw-r----- 8 bytes
	// etc/motd: content
}

func one(k driver.Known) iter.Seq2[driver.Known, error] {
	return func(yield func(driver.Known, error) bool) { yield(k, nil) }
}
