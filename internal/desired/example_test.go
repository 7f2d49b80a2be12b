package desired_test

import (
	"fmt"

	"espalier/internal/desired"
)

// An object's digest is over its key and its envelope, the one encoding of all
// else that it is.
func Example() {
	o := desired.Object{
		Key:        "files/etc/motd",
		Value:      []byte("welcome\n"),
		Attributes: map[string]string{"mode": "0644"},
		After:      []string{"files/etc"},
	}
	if err := desired.CheckKey([]byte(o.Key)); err != nil {
		fmt.Println(err)
		return
	}
	envelope, err := desired.Encode(o)
	if err != nil {
		fmt.Println(err)
		return
	}
	var h desired.Hasher
	fmt.Printf("%d bytes, %v\n", len(envelope), h.Sum([]byte(o.Key), envelope))
	// Output: 31 bytes, 67d02272b9bfacfef994fd0f6309d66a655d19eb22f448deab5eae689cc6c1ae
}

func ExampleParsePosition() {
	p, _ := desired.ParsePosition("42")
	fmt.Println(p.Number, p.Epoch.IsZero())
	_, err := desired.ParsePosition("latest")
	fmt.Println(err)
	// Output:
	// 42 true
	// invalid revision "latest": want a number, or epoch:number
}

func ExamplePrefixEnd() {
	fmt.Printf("%q\n", desired.PrefixEnd([]byte("files/")))
	// Output: "files0"
}
