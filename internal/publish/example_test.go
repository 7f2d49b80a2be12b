package publish_test

import (
	"context"
	"fmt"
	"log"
	"strings"

	"espalier/internal/publish"
)

// An input is read whole before anything happens, and its first bad line named.
func ExampleReadJSONL() {
	const text = `{"key":"motd","value":"hello"}
{"key":"logo","value_base64":"iVBORw0KGgo=","attributes":{"mode":"0644"},"after":["motd"]}
`
	in, err := publish.ReadJSONL(context.Background(), strings.NewReader(text), publish.ReadOptions{KeyPrefix: "site/"})
	if err != nil {
		log.Fatal(err)
	}
	defer in.Close()
	fmt.Println(in.Len(), "objects")

	_, err = publish.ReadJSONL(context.Background(), strings.NewReader(text+`{"key":"motd"`), publish.ReadOptions{})
	fmt.Println(err)
	// Output:
	// 2 objects
	// line 3: invalid JSON: the line ends too early
}
