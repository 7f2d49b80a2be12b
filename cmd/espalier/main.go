// Command espalier holds the desired state of a fleet, and brings it to hosts.
package main

import (
	"os"

	"espalier/internal/cli"
)

func main() {
	os.Exit(cli.Main(os.Args[1:], cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
}
