package process_test

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"espalier/agent/driver/process"
	"espalier/internal/desired"
)

func TestParseSpec(t *testing.T) {
	got, err := process.ParseSpec([]byte(`{"argv":["/usr/sbin/httpd","-f","x"],"replicas":2,"env":{"A":"b"},"dir":"/srv",
		"user":"www-data","stop_timeout":"20s","stop_signal":"SIGQUIT","ready_after":"2s"}`))
	want := process.Spec{
		Argv: []string{"/usr/sbin/httpd", "-f", "x"}, Replicas: 2, Env: map[string]string{"A": "b"}, Dir: "/srv", User: "www-data",
		Stop: process.Stopping{Signal: "QUIT", Timeout: 20 * time.Second}, ReadyAfter: 2 * time.Second,
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("ParseSpec(all fields) = %+v, %v, want %+v", got, err, want)
	}
	got, err = process.ParseSpec([]byte(` {"argv":["/a"]} `))
	want = process.Spec{
		Argv: []string{"/a"}, Replicas: 1, Dir: "/",
		Stop: process.Stopping{Signal: "TERM", Timeout: process.DefaultStopTimeout}, ReadyAfter: process.DefaultReadyAfter,
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("ParseSpec(argv alone) = %+v, %v, want %+v", got, err, want)
	}
}

func TestParseSpecRefuses(t *testing.T) {
	many := `{"argv":["/a"` + strings.Repeat(`,"x"`, process.MaxArgs) + `]}`
	env := `{"argv":["/a"],"env":{"A":"b"`
	for i := range process.MaxEnv {
		env += fmt.Sprintf(`,"A%d":""`, i)
	}
	for _, c := range []struct{ value, want string }{
		{``, "it is not one JSON object"},
		{`{"argv":["/a"]`, "it is not one JSON object"},
		{`{"argv":["/a"]} {}`, "it is not one JSON object"},
		{`{"argv":["/a"],"argv":["/b"]}`, "it is not one JSON object"},
		{`{"argv":["/a` + "\xff" + `"]}`, "it is not one JSON object"},
		{`[]`, "want a JSON object"},
		{`"x"`, "want a JSON object"},
		{`{}`, "field argv is missing or empty"},
		{`{"argv":[]}`, "field argv is missing or empty"},
		{`{"argv":"/a"}`, "field argv: want a list of texts, found a text"},
		{`{"argv":["/a",1]}`, `field argv, at "1": want a list of texts, found another number`},
		{`{"argv":["a"]}`, `field argv: the program "a" is not an absolute path`},
		{`{"argv":[""]}`, "field argv"},
		{`{"argv":["/a","x\u0000"]}`, "field argv, at 1: it has a zero byte"},
		{`{"argv":["/a","` + strings.Repeat("x", process.MaxTextBytes+1) + `"]}`, "field argv, at 1: 65537 bytes, at most 65536"},
		{many, "field argv: 1025 arguments, at most 1024"},
		{`{"argv":["/a"],"Replicas":1}`, `unknown field "Replicas": there are argv, dir, env,`},
		{`{"argv":["/a"],"replicas":-1}`, "field replicas: -1 is not from 0 to 256"},
		{`{"argv":["/a"],"replicas":257}`, "field replicas: 257 is not from 0 to 256"},
		{`{"argv":["/a"],"replicas":1.5}`, "field replicas: want a whole number, found another number"},
		{`{"argv":["/a"],"replicas":1e99}`, "field replicas: want a whole number"},
		{`{"argv":["/a"],"replicas":"2"}`, "field replicas: want a whole number, found a text"},
		{`{"argv":["/a"],"env":[]}`, "field env: want an object of texts, found a list"},
		{`{"argv":["/a"],"env":{"A":1}}`, `field env, at "A": want an object of texts, found another number`},
		{`{"argv":["/a"],"env":{"":"x"}}`, `field env: "" can't be the name of a variable`},
		{`{"argv":["/a"],"env":{"A=B":"x"}}`, `field env: "A=B" can't be the name`},
		{`{"argv":["/a"],"env":{"ESPALIER_NAME":"x"}}`, `field env: "ESPALIER_NAME": names that begin with ESPALIER_ are set by the agent`},
		{`{"argv":["/a"],"env":{"A":"\u0000"}}`, `field env, at "A": it has a zero byte`},
		{env + `}}`, "field env: 1025 variables, at most 1024"},
		{`{"argv":["/a"],"dir":"srv"}`, `field dir: "srv" is not an absolute path`},
		{`{"argv":["/a"],"dir":""}`, `field dir: "" is not an absolute path`},
		{`{"argv":["/a"],"dir":1}`, "field dir: want a text, found another number"},
		{`{"argv":["/a"],"user":{}}`, "field user: want a text, found an object"},
		{`{"argv":["/a"],"stop_timeout":10}`, `field stop_timeout: want a text such as "10s", found another number`},
		{`{"argv":["/a"],"stop_timeout":"10"}`, `field stop_timeout: "10" is not a time from 0s to 5m0s, such as "10s"`},
		{`{"argv":["/a"],"stop_timeout":"6m"}`, `field stop_timeout: "6m" is not`},
		{`{"argv":["/a"],"ready_after":"-1s"}`, `field ready_after: "-1s" is not a time from 0s to 5m0s, such as "1s"`},
		{`{"argv":["/a"],"stop_signal":"STOP"}`, `field stop_signal: "STOP" is none of TERM, INT,`},
		{`{"argv":["/a"],"stop_signal":9}`, `field stop_signal: want a text such as "TERM", found another number`},
		{`{"argv":["/a","` + strings.Repeat("x", process.MaxSpecBytes) + `"]}`, "bytes, at most 262144 are allowed"},
	} {
		_, err := process.ParseSpec([]byte(c.value))
		if !errors.Is(err, desired.ErrInvalid) || !strings.HasPrefix(err.Error(), "invalid process: ") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("ParseSpec(%.80s) = %v, want %q", c.value, err, c.want)
		}
	}
}

// FuzzParseSpec shows that what is accepted keeps the bounds, and that what is
// refused is so with words that can be shown.
func FuzzParseSpec(f *testing.F) {
	for _, value := range []string{
		`{"argv":["/usr/sbin/httpd","-f","x"],"replicas":2,"env":{"A":"b"},"dir":"/","user":"www-data","stop_timeout":"10s","stop_signal":"TERM","ready_after":"1s"}`,
		`{"argv":[]}`, `{"argv":["/a"],"replicas":null}`, `{"argv":[null]}`, `[`, `{"a":1,"a":2}`,
	} {
		f.Add([]byte(value))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		s, err := process.ParseSpec(value)
		if err != nil {
			if !errors.Is(err, desired.ErrInvalid) || len(err.Error()) > 1000 {
				t.Errorf("error %q of %d bytes", err, len(err.Error()))
			}
			return
		}
		texts := append(slices.Collect(maps.Values(s.Env)), s.Argv...)
		longest := slices.MaxFunc(texts, func(a, b string) int { return len(a) - len(b) })
		switch {
		case len(s.Argv) == 0, len(s.Argv) > process.MaxArgs, s.Argv[0][0] != '/', s.Dir[0] != '/', len(s.Env) > process.MaxEnv,
			s.Replicas < 0, s.Replicas > process.MaxReplicas, s.Stop.Timeout < 0, s.Stop.Timeout > process.MaxStopTimeout,
			s.ReadyAfter < 0, s.ReadyAfter > process.MaxReadyAfter, s.Stop.Signal == "", len(longest) > process.MaxTextBytes,
			strings.Contains(strings.Join(texts, "")+s.Dir+s.User, "\x00"):
			t.Errorf("ParseSpec(%q) = %+v", value, s)
		}
	})
}

// TestVersions shows which fields start running copies anew.
func TestVersions(t *testing.T) {
	parse := func(more string) string {
		s, err := process.ParseSpec([]byte(`{"argv":["/a","b"]` + more + `}`))
		if err != nil {
			t.Fatal(err)
		}
		return process.Version(s)
	}
	base := parse("")
	for more, same := range map[string]bool{
		`,"replicas":7`: true, `,"stop_timeout":"1s"`: true, `,"stop_signal":"INT"`: true, `,"ready_after":"2s"`: true, `,"dir":"/"`: true,
		`,"env":{}`: true, `,"env":{"A":""}`: false, `,"dir":"/srv"`: false, `,"user":"x"`: false,
	} {
		if got := parse(more) == base; got != same {
			t.Errorf("with %s the version is the same: %t, want %t", more, got, same)
		}
	}
	a, _ := process.ParseSpec([]byte(`{"argv":["/a","bc"]}`))
	b, _ := process.ParseSpec([]byte(`{"argv":["/ab","c"]}`))
	if process.Version(a) == process.Version(b) {
		t.Error("arguments that are split elsewhere have the same version")
	}
}

// TestFileNames shows that no two names share a file.
func TestFileNames(t *testing.T) {
	long := strings.Repeat("a/", 400)
	seen := map[string]string{}
	for _, name := range []string{
		"a", "A", "a/b", "a%2Fb", "a b", "a~b", ".", "..", ".a", "a.", "a.0.log", "ä", long, long + "b", long[:len(long)-1],
		strings.Repeat("a", 180), strings.Repeat("a", 181), strings.Repeat("a", 182),
	} {
		file := process.FileName(name)
		if other, taken := seen[file]; taken {
			t.Errorf("FileName(%q) = FileName(%q) = %q", name, other, file)
		}
		seen[file] = name
		if len(file) > 200 || file == "" || file[0] == '.' || strings.ContainsAny(file, "/\x00") {
			t.Errorf("FileName(%q) = %q can't be a file's", name, file)
		}
	}
	if got := process.FileName("apache"); got != "apache" {
		t.Errorf("FileName(apache) = %q", got)
	}
	for _, c := range []struct {
		name, file string
		want       bool
	}{
		{"a", "a.0.log", true},
		{"a", "a.12.log.3", true},
		{"a", "a.0.log.0.log", false},
		{"a", "b.a.0.log", false},
		{"a", "a.log", false},
		{"a.0.log", "a.0.log.1", false},
		{"a.0.log", "a.0.log.1.log", true},
	} {
		if got := process.LogPattern(c.name).MatchString(c.file); got != c.want {
			t.Errorf("a log of %q is called %q: %t, want %t", c.name, c.file, got, c.want)
		}
	}
}
