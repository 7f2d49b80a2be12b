package exec_test

import (
	"context"
	"fmt"

	"espalier/agent/driver"
	"espalier/agent/driver/exec"
	"espalier/internal/desired"
)

// A program reads lines and answers each.
func ExampleNew() {
	d, err := exec.New(exec.Options{Command: []string{"/bin/sh", "-c", `
		while IFS= read -r line; do
			id=${line#'{"id":"'} id=${id%%'"'*}
			printf '{"id":"%s","ok":true}\n' "$id"
		done`}})
	if err != nil {
		panic(err)
	}
	results := d.Apply(context.Background(), []driver.Change{{
		Key: "hook/a", Name: "a", ID: "1", Object: &desired.Object{Key: "hook/a", Value: []byte("value")},
	}})
	fmt.Println(results[0].Err)
	// Output: <nil>
}
