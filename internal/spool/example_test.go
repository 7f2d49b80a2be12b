package spool_test

import (
	"errors"
	"fmt"
	"log"

	"espalier/internal/desired"
	"espalier/internal/spool"
	"espalier/merkle"
)

// An input comes in any order; what it holds is read in the order of its keys,
// and has a tree.
func Example() {
	w := spool.New("", spool.Options{})
	defer w.Close()
	var h desired.Hasher
	for i, key := range []string{"run/web", "files/logo.svg", "files/index.html"} {
		envelope, err := desired.Encode(desired.Object{Key: key, Value: []byte("content of " + key)})
		if err != nil {
			log.Fatal(err)
		}
		c := desired.Change{Key: []byte(key), Envelope: envelope, Digest: h.Sum([]byte(key), envelope)}
		if err := w.Add(c, i+1); err != nil {
			log.Fatal(err)
		}
	}
	s, err := w.Finish()
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()

	for c, err := range s.All() {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s: %s\n", c.Key, c.Envelope[1:])
	}
	tree, err := s.Tree(merkle.Shape{Salt: 42})
	if err != nil {
		log.Fatal(err)
	}
	defer tree.Close()
	root := tree.Root()
	fmt.Printf("root %x… over %d objects\n", root.Digest[:4], root.Count)
	// Output:
	// files/index.html: content of files/index.html
	// files/logo.svg: content of files/logo.svg
	// run/web: content of run/web
	// root a4ecf89d… over 3 objects
}

func ExampleDuplicateError() {
	w := spool.New("", spool.Options{})
	defer w.Close()
	var err error
	for i, key := range []string{"a", "b", "a"} {
		err = errors.Join(err, w.Add(desired.Change{Key: []byte(key), Envelope: desired.Envelope{0}}, i+1))
	}
	if err == nil {
		_, err = w.Finish()
	}
	fmt.Println(err)
	// Output: key "a" is there twice: in line 1 and in line 3
}
