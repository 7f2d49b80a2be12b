package merkle_test

import (
	"crypto/sha256"
	"fmt"
	"log"

	"espalier/merkle"
)

// Two sides hold the same objects, one of them changes some, and the other finds
// which.
func ExampleShape_Update() {
	shape := merkle.Shape{Salt: 42, MaxChildren: merkle.MaxChildren}

	var ours merkle.Memory
	builder := shape.NewBuilder(ours.Append)
	for _, key := range []string{"files/index.html", "files/logo.svg", "run/web"} {
		row := merkle.Row{Key: []byte(key), Digest: sha256.Sum256([]byte(key)), Count: 1}
		if err := ours.Append(0, row); err != nil {
			log.Fatal(err)
		}
		if err := builder.Add(row.Key, row.Digest); err != nil {
			log.Fatal(err)
		}
	}
	if _, _, err := builder.Finish(); err != nil {
		log.Fatal(err)
	}
	theirs := ours

	changes := []merkle.Change{
		{Key: []byte("files/index.html"), Digest: sha256.Sum256([]byte("new"))},
		{Key: []byte("files/logo.svg"), Gone: true},
	}
	updated, err := shape.Update(&theirs, changes)
	if err != nil {
		log.Fatal(err)
	}
	theirs.Apply(changes, updated)
	fmt.Printf("root %x… over %d objects\n", updated.Root.Digest[:4], updated.Root.Count)

	for d, err := range merkle.Diff(&ours, &theirs) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s: %x… is now %x…\n", d.Key, d.A[:4], d.B[:4])
	}
	// Output:
	// root 3e6a3ede… over 2 objects
	// files/index.html: 9636b2df… is now 11507a0e…
	// files/logo.svg: 520707de… is now 00000000…
}
