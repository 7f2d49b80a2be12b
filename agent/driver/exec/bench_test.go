package exec_test

import (
	"fmt"
	"strings"
	"testing"

	"espalier/agent/driver/exec"
)

// BenchmarkApply shows what a run costs, and what an object in it does, with a
// program that does nothing but answer.
func BenchmarkApply(b *testing.B) {
	d, err := exec.New(exec.Options{Command: []string{"/bin/sed", `s/^{"id":"\([^"]*\)".*/{"id":"\1","ok":true}/`}})
	if err != nil {
		b.Fatal(err)
	}
	for _, n := range []int{1, 100, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			all := numbered(n)
			for i := range all {
				all[i].Object.Value = []byte(strings.Repeat("v", 100))
			}
			for b.Loop() {
				for _, r := range d.Apply(b.Context(), all) {
					if r.Err != nil {
						b.Fatal(r.Err)
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/float64(n), "µs/object")
		})
	}
}
