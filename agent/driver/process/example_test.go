//go:build linux

package process_test

import (
	"context"
	"fmt"
	"os"

	"espalier/agent/driver"
	"espalier/agent/driver/process"
	"espalier/internal/desired"
)

// Two copies of a program run, and then none do.
func Example() {
	dir, err := os.MkdirTemp("", "espalier")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	// The shim is this program, with an argument upon which its main calls Shim.
	d, err := process.New(process.Options{Dir: dir, Shim: []string{"/proc/self/exe", "shim"}})
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	c := driver.Change{Key: "run/sleep", Name: "sleep", Object: &desired.Object{
		Value: []byte(`{"argv":["/bin/sleep","3600"],"replicas":2,"ready_after":"0s"}`),
	}}
	r := d.Apply(ctx, []driver.Change{c})
	fmt.Println("started:", r[0].Err)
	r = d.Apply(ctx, []driver.Change{{Key: c.Key, Name: c.Name, Note: r[0].Note}}) // the object is gone
	fmt.Println("stopped:", r[0].Err)
	// Output:
	// started: <nil>
	// stopped: <nil>
}
