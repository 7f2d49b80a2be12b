package config_test

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"espalier/internal/apply"
	"espalier/internal/config"
	"espalier/internal/desired"
	"espalier/store"
)

func TestLoad(t *testing.T) {
	got, err := config.Load("testdata/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	interval := 30 * time.Second
	want := &config.Config{
		Settings: config.Settings{Host: "web-01", Server: "orchestrator-a:7600,[::1]:7600", Data: "/var/lib/espalier", Interval: &interval},
		Routes: []config.Route{
			{Prefix: "files/", Driver: &config.FileDriver{
				Root: "/srv/site", Adopt: true, Unmanaged: []string{"local/*", "**/.git"}, CrossMounts: true, MaxWatches: 4096,
			}},
			{Prefix: "run/", Driver: &config.ProcessDriver{Logs: "/var/log/espalier", LogBytes: 3 << 19, LogFiles: 3}},
			{Prefix: "", Driver: &config.ExecDriver{
				Command: []string{"/usr/local/bin/hook", "--zone", ""}, Batch: 200, Parallel: 2, Timeout: time.Minute, Check: true,
				Env: []string{"A=1", "EMPTY=", "ZONE=example.org"}, Dir: "/tmp",
			}},
		},
		Policy: apply.Policy{
			Detect: true, MaxDelete: &store.DeleteLimit{Count: 10, Percent: 12.5},
			Windows: []apply.Window{
				{Days: []time.Weekday{time.Monday, time.Tuesday}, From: 22 * time.Hour, Until: 4*time.Hour + 30*time.Minute},
				{Until: 24 * time.Hour},
			},
			Rate: 100, Timeout: 5 * time.Minute,
			ScanInterval: 10 * time.Minute, ScanRate: 20000.5, ContentsInterval: -1, ContentsRate: 500, ContentsBytes: 4 << 20,
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("Load = %+v, want %+v", got, want)
	}
	if _, err := config.Load("testdata/nothing.yaml"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Load of a file that is not there = %v, want %v", err, fs.ErrNotExist)
	}
}

// TestParse shows what single fields come to.
func TestParse(t *testing.T) {
	none := &config.Config{}
	limit := func(l store.DeleteLimit) *config.Config {
		return &config.Config{Policy: apply.Policy{MaxDelete: &l}}
	}
	for text, want := range map[string]*config.Config{
		"":                             none,
		"# nothing\n":                  none,
		"---\n":                        none,
		"{}":                           none,
		"drivers: []":                  none,
		"apply: {mode: enforce}":       none,
		"server: a:1":                  {Settings: config.Settings{Server: "a:1"}},
		"apply: {max_delete: 7}":       limit(store.DeleteLimit{Count: 7}),
		"apply: {max_delete: 0}":       limit(store.DeleteLimit{}),
		"apply: {max_delete: 0%}":      limit(store.DeleteLimit{}),
		"apply: {max_delete: 100%}":    limit(store.DeleteLimit{Count: 10, Percent: 100}),
		"apply: {max_delete: none}":    limit(store.DeleteLimit{Count: math.MaxUint64}),
		"scan: {interval: 1h30m}":      {Policy: apply.Policy{ScanInterval: 90 * time.Minute}},
		"scan: {contents_bytes: 512}":  {Policy: apply.Policy{ContentsBytes: 512}},
		"scan: {contents_bytes: 2 MB}": {Policy: apply.Policy{ContentsBytes: 2e6}},
		"drivers: [{driver: process, prefix: a/b/}]": {Routes: []config.Route{{Prefix: "a/b/", Driver: &config.ProcessDriver{}}}},
	} {
		got, err := config.Parse("f", []byte(text))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("Parse(%q) = %+v, %v, want %+v", text, got, err, want)
		}
	}
}

// TestProblems shows what is refused, and where.
func TestProblems(t *testing.T) {
	files := func(fields string) string {
		return "drivers:\n  - {prefix: f/, driver: file, root: /r, " + fields + "}"
	}
	hook := func(fields string) string {
		return "drivers:\n  - {prefix: f/, driver: exec, command: [/h], " + fields + "}"
	}
	const two = "drivers:\n  - {prefix: a/, driver: %s}\n  - {prefix: %s}"
	for _, c := range []struct{ text, want string }{
		{"hots: a", `f:1: unknown field "hots" of the file: there are host, server, data`},
		{"host: a\ndata: /d\nhost: b", `f:3: field "host" of the file is there already, on line 1`},
		{"- a", "f:1: the file: want an object of fields, found a list"},
		{"a", `f:1: the file: want an object of fields, found "a"`},
		{"host: {", "it is no YAML: "},
		{"host: a\n---\nhost: b", "f:2: there is a second document"},
		{"host: \xff", "it is no YAML"},
		{"? [a]\n: b", "the name of a field of the file: want a text, found a list"},
		{"1: b", `the name of a field of the file: want a text, found "1"`},
		{"x: &x {}\napply: *x", "f:2: apply: aliases are not supported: write out what *x stands for"},
		{"apply: {mode: &enforce enforce}\nscan: {<<: *enforce}", `f:2: unknown field "<<" of scan`},
		{"apply: {mode: *enforce}", "it is no YAML: unknown anchor"},
		{"host:", "f:1: host: want a text, found nothing; leave the field out"},
		{"host: 17", `f:1: host: want a text, found 17: put it in quotes, "17"`},
		{"host: Web", `f:1: host: invalid name "Web"`},
		{"host: \"a\\0b\"", "host: it contains a NUL"},
		{"host: ''", "host: it is empty"},
		{"server: a", `f:1: server "a": want host:port`},
		{"server: 'a:0'", `the port has to be a number from 1 to 65535`},
		{"server: 'a:x'", `the port has to be a number`},
		{"server: ':1'", `want host:port`},
		{"server: 'a:1,b:2'", `want host:port`},
		{"server:\n  - a:1\n  - a:1", `f:3: server "a:1" is there twice`},
		{"server: []", "server: the list is empty"},
		{"server: {a: 1}", "server: want a list, found an object"},
		{"server: [" + strings.Repeat("x,", 17) + "]", "server: 17, at most 16 are allowed"},
		{"data: lib", `f:1: data: "lib" is relative, want an absolute path`},
		{"data: /" + strings.Repeat("x", 5000), "a path of 5001 bytes"},
		{"interval: 30", `f:1: interval: want a time with a unit, as 30s, 5m or 1h30m, from 1s to 24h, found "30"`},
		{"interval: 1ms", "from 1s to 24h"},
		{"interval: none", "want a time with a unit"},
		{"drivers: {}", "drivers: want a list, found an object"},
		{"drivers: [a]", "a driver: want an object, as {prefix"},
		{"drivers:\n  - {prefix: a/}", `f:2: unknown driver "": there are file, process and exec`},
		{"drivers:\n  - {prefix: a/, driver: fiel}", `f:2: unknown driver "fiel"`},
		{"drivers:\n  - {driver: process}", "f:2: a driver has no prefix"},
		{"drivers:\n  - {driver: process, prefix: /a/}", "no key begins with it"},
		{"drivers:\n  - {driver: process, prefix: a//}", "no key begins with it"},
		{"drivers:\n  - {driver: process, prefix: a}", `prefix "a": it has to end with a /, or "a-other" would be among its keys`},
		{"drivers:\n  - {driver: process, prefix: [a]}", "prefix: want a text, found a list"},
		{"drivers:\n  - {driver: file, prefix: a/}", "f:2: driver file has no root"},
		{"drivers:\n  - {driver: file, prefix: a/, root: here}", "is relative"},
		{files("adopt: yes"), `f:2: adopt: want true or false, found "yes"`},
		{files("unmanaged: local"), "unmanaged: want a list"},
		{files("unmanaged: [\"a/[\"]"), `segment "[" of pattern "a/[" is malformed`},
		{files("unmanaged: [/a]"), `segment "" of pattern "/a" is malformed`},
		{files("max_watches: 0"), "max_watches: want a whole number from 1 to 16777216"},
		{files("max_watches: 1.5"), "want a whole number"},
		{files("command: [/x]"), `unknown field "command" of driver file`},
		{"drivers:\n  - {driver: process, prefix: a/, log_bytes: 1}", `log_bytes: want bytes, as 65536, 64KiB or 10MB, from 65536 to`},
		{"drivers:\n  - {driver: process, prefix: a/, log_bytes: 10 Mb}", "want bytes"},
		{"drivers:\n  - {driver: process, prefix: a/, log_files: 0}", "want a whole number from 1 to 1000"},
		{"drivers:\n  - {driver: exec, prefix: a/}", "driver exec has no command"},
		{"drivers:\n  - {driver: exec, prefix: a/, command: /h}", "command: want a list"},
		{"drivers:\n  - {driver: exec, prefix: a/, command: []}", "command: the list is empty"},
		{"drivers:\n  - {driver: exec, prefix: a/, command: [hook]}", `command: "hook" is relative, want an absolute path`},
		{"drivers:\n  - {driver: exec, prefix: a/, command: [/hook, 1]}", "command: want a text, found 1: put it in quotes"},
		{hook("batch: 0"), "batch: want a whole number from 1 to 10000"},
		{hook("parallel: 65"), "parallel: want a whole number from 1 to 64"},
		{hook("timeout: 25h"), "from 1s to 24h"},
		{hook("env: [A]"), "env: want an object of fields"},
		{hook("env: {A=B: c}"), `env: "A=B" can't be the name of a variable`},
		{hook("env: {A: 1}"), `env A: want a text, found 1: put it in quotes, "1"`},
		{hook("env: {A: b, A: c}"), `field "A" of env is there already`},
		{fmt.Sprintf(two, "process", "a/, driver: process"), `f:3: prefix "a/" is there already, on line 2`},
		{fmt.Sprintf(two, "process, logs: /l", "b/, driver: process, logs: /l/"), "f:3: logs /l is there already, on line 2"},
		{fmt.Sprintf(two, "file, root: /s", "b/, driver: file, root: /s/./"), "f:3: root /s is there already, on line 2"},
		{fmt.Sprintf(two, "file, root: /s", "b/, driver: file, root: /s/t"), "f:3: root /s/t and root /s, on line 2, are one within the other"},
		{fmt.Sprintf(two, "file, root: /s/t", "b/, driver: file, root: /"), "f:3: root / and root /s/t, on line 2, are one within the other"},
		{"data: /d\ndrivers:\n  - {prefix: a/, driver: file, root: /d/x}", "f:3: root /d/x is in the agent's own folder, /d"},
		{"apply: {mode: off}", "mode: want enforce or detect"},
		{"apply: {max_delete: 101%}", `max_delete "101%": want a percentage from 0% to 100%`},
		{"apply: {max_delete: NaN%}", "want a percentage"},
		{"apply: {max_delete: -1}", "max_delete: want a number, a percentage such as 10%, or none"},
		{"apply: {max_delete: [1]}", "max_delete: want a number"},
		{"apply: {rate: 0}", "rate of apply: want a number above 0"},
		{"apply: {rate: .inf}", "want a number above 0"},
		{"apply: {rate: .nan}", "want a number above 0"},
		{"apply: {timeout: 0s}", "timeout of apply: want a time"},
		{"apply: {windows: [{from: \"22:00\"}]}", "a window has no until"},
		{"apply: {windows: [{from: \"24:00\", until: \"01:00\"}]}", "from: want a time of day from 00:00 to 23:59"},
		{"apply: {windows: [{from: \"1:00\", until: \"01:00\"}]}", "from: want a time of day"},
		{"apply: {windows: [{from: \"01:00\", until: \"01:60\"}]}", "until: want a time of day from 00:00 to 24:00"},
		{"apply: {windows: [{days: [mon, monday], from: \"01:00\", until: \"02:00\"}]}", "days: monday is there twice"},
		{"apply: {windows: [{days: [noday], from: \"01:00\", until: \"02:00\"}]}", "days: want mon, tue"},
		{"apply: {windows: [{days: [], from: \"01:00\", until: \"02:00\"}]}", "days: the list is empty"},
		{"apply: {windows: [1]}", "a window: want an object"},
		{"scan: {interval: 0s}", "interval of scan: want a time"},
		{"scan: {contents_bytes: 0}", "contents_bytes: want bytes"},
		{"scan: {contents_rate: many}", "contents_rate: want a number"},
		{"#" + strings.Repeat("x", config.MaxFileBytes), "it has more than the 1048576 bytes"},
	} {
		got, err := config.Parse("f", []byte(c.text))
		if err == nil || got != nil || !errors.Is(err, desired.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Parse(%.100q) = %v, %v, want %q", c.text, got, err, c.want)
		}
	}
}

// TestAllAtOnce shows that problems are told together, in the file's order.
func TestAllAtOnce(t *testing.T) {
	_, err := config.Parse("f", []byte(`host: Web
drivers:
  - {prefix: a/, driver: file, root: here, batch: 1}
  - {prefix: a/, driver: exec, command: [x], batch: 0}
interval: 3
bogus: true
`))
	var problems config.Problems
	if !errors.As(err, &problems) {
		t.Fatalf("Parse = %v, want Problems", err)
	}
	var lines []int
	for _, p := range problems {
		lines = append(lines, p.Line)
	}
	if want := []int{1, 3, 3, 4, 4, 4, 5, 6}; !reflect.DeepEqual(lines, want) {
		t.Errorf("problems are on lines %v, want %v:\n%v", lines, want, err)
	}
	_, err = config.Parse("f", []byte(strings.Repeat("x: {\"\": a}\n", 500)))
	if n := strings.Count(err.Error(), "\n") + 1; n != 101 || !strings.HasSuffix(err.Error(), "400 more problems are left out") {
		t.Errorf("of 500 problems %d lines are told, want 101:\n%v", n, err)
	}
}

// TestExample shows that the example is one.
func TestExample(t *testing.T) {
	c, err := config.Load("../../deploy/agent.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Routes) == 0 {
		t.Error("the example routes nothing")
	}
}

// TestEveryField shows that the full example has each field that there is, and
// that the documentation, and the example for operators, name each.
func TestEveryField(t *testing.T) {
	read := func(path string) string {
		text, err := os.ReadFile(filepath.FromSlash(path))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	full := read("testdata/full.yaml")
	fields := config.Fields([]byte(full))
	if len(fields) != 7 { // the file, apply, scan, a window, and three drivers
		t.Errorf("the objects with fields are %v, want 7", fields)
	}
	docs, example := read("../../docs/configuration.md"), read("../../deploy/agent.yaml")
	for what, names := range fields {
		for _, name := range names {
			if !strings.Contains(full, name+":") {
				t.Errorf("the full example has no %s of %s", name, what)
			}
			if !strings.Contains(docs, "`"+name+"`") {
				t.Errorf("docs/configuration.md does not tell of %s of %s", name, what)
			}
			if !strings.Contains(example, name+":") {
				t.Errorf("deploy/agent.yaml does not show %s of %s", name, what)
			}
		}
	}
}

func TestLabel(t *testing.T) {
	for _, c := range []struct {
		driver config.Driver
		want   string
	}{
		{&config.FileDriver{Root: "/srv/site"}, "file /srv/site"},
		{&config.ProcessDriver{Logs: "/l"}, "process"},
		{&config.ExecDriver{Command: []string{"/h", "-x"}}, "exec /h -x"},
	} {
		if got := c.driver.Label(); got != c.want {
			t.Errorf("Label(%+v) = %q, want %q", c.driver, got, c.want)
		}
	}
	long := func(end string) string {
		return (&config.FileDriver{Root: "/" + strings.Repeat("x", store.MaxRouteBytes) + end}).Label()
	}
	if a, b := long("a"), long("b"); len(a) > store.MaxRouteBytes || a == b || !strings.HasPrefix(a, "file ") {
		t.Errorf("labels of long roots are %q and %q, want two short ones", a, b)
	}
}

// FuzzParse: whatever a file says, what is taken over is valid, and problems are
// bounded.
func FuzzParse(f *testing.F) {
	full, err := os.ReadFile("testdata/full.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(full)
	for _, text := range []string{
		"", "a: [", "drivers: [{prefix: a/, driver: file}]", "x: &a [*a]", "? {a: b}\n: c", "apply: {windows: [{days: [mon]}]}", "server: [a:1, a:1]",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := config.Parse("f", text)
		if err != nil {
			var problems config.Problems
			if !errors.As(err, &problems) || len(problems) == 0 || len(problems) > 101 || c != nil {
				t.Fatalf("Parse = %v, %v", c, err)
			}
			for _, p := range problems {
				if p.Line < 1 || p.Text == "" {
					t.Errorf("problem %+v is nowhere, or nothing", p)
				}
			}
			return
		}
		prefixes := map[string]bool{}
		for _, r := range c.Routes {
			if prefixes[r.Prefix] || r.Driver == nil || len(r.Driver.Label()) > store.MaxRouteBytes {
				t.Errorf("route %+v is double, or of nothing", r)
			}
			prefixes[r.Prefix] = true
			if d, ok := r.Driver.(*config.FileDriver); ok && !filepath.IsAbs(d.Root) {
				t.Errorf("root %q is relative", d.Root)
			}
		}
		if p := c.Policy; p.Rate < 0 || p.Timeout < 0 || p.ScanRate < 0 || p.ScanInterval < -1 {
			t.Errorf("policy %+v is out of bounds", p)
		}
	})
}
