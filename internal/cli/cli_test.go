package cli_test

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"espalier/internal/cli"
)

// run runs a command with what it reads, and returns how it ended.
func run(t *testing.T, stdin string, args ...string) (status int, out, errs string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	status = cli.Main(args, cli.Streams{In: strings.NewReader(stdin), Out: &stdout, Err: &stderr})
	return status, stdout.String(), stderr.String()
}

// TestMisuse shows what is refused before anything is read, written or asked.
func TestMisuse(t *testing.T) {
	nothing := filepath.Join(t.TempDir(), "nothing")
	for _, c := range []struct{ args, want string }{
		{"apply s --insecure --server nowhere -f " + nothing, `address "nowhere": want host:port`},
		{"apply s --insecure --server 127.0.0.1:99999 -f " + nothing, `address "127.0.0.1:99999": the port`},
		{"apply s --insecure --server 10.0.0.1:7600 -f " + nothing, "not a loopback address"},
		{"apply s --identity " + nothing + " -f " + nothing, "espalier login"},
		{"apply s --insecure --expect x -f " + nothing, "--expect"},
		{"apply s --insecure --max-delete x -f " + nothing, "--max-delete"},
		{"set s k --server nowhere -f " + nothing, `address "nowhere"`},
		{"token create --operator a --role writer --sets=", "--sets is empty"},
		{"serve --insecure --listen 127.0.0.1:65536 --data " + nothing, `address "127.0.0.1:65536": the port`},
		{"nosuch", `unknown command "nosuch"`},
		{"nosuch --help", `unknown command "nosuch"`},
		{"help nosuch", `unknown command "nosuch"`},
		{"help sets nosuch", `unknown command "nosuch"` + "\nsee 'espalier sets --help'"},
		{"completion tcsh", `unknown command "tcsh"` + "\nsee 'espalier completion --help'"},
		{"sets bogus", `unknown command "bogus"` + "\nsee 'espalier sets --help'"},
		{"bench bogus", `unknown command "bogus"`},
		{"serve x", "espalier serve takes no arguments, got 1 argument\n"},
		{"set s k v --insecure -m \xff", `--message "\xff": it is not UTF-8`},
	} {
		status, out, errs := run(t, "", strings.Fields(c.args)...)
		if status != 2 || out != "" || !strings.HasPrefix(errs, "espalier: ") || !strings.Contains(errs, c.want) {
			t.Errorf("%s: status %d, %q, %q; want 2 and %q", c.args, status, out, errs, c.want)
		}
	}
}

// TestHelp shows what is told without a server.
func TestHelp(t *testing.T) {
	for args, want := range map[string]string{
		"":                "espalier demo",
		"--help":          "--version",
		"help":            "  version ",
		"help sets":       "delete      Delete a set",
		"sets --help":     "List the sets",
		"apply --help":    "--prune",
		"bench":           "transfer",
		"completion bash": "bash completion",
		"--version":       "espalier ",
		"version":         "espalier ",
		"version -o json": `{"version":"`,
	} {
		status, out, errs := run(t, "", strings.Fields(args)...)
		if status != 0 || errs != "" || !strings.Contains(out, want) {
			t.Errorf("%s: status %d, %q, %q; want 0 and %q", args, status, out, errs, want)
		}
	}
}
