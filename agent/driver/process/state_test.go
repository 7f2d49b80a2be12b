//go:build linux

package process

import (
	"bytes"
	"errors"
	"testing"
)

// FuzzDecodeState shows that whatever a file has in it, a state that is believed
// names a run, a shim and a replica.
func FuzzDecodeState(f *testing.F) {
	f.Add([]byte(`{"name":"a","replica":1,"version":"v","run":"r","boot":"b","shim":{"pid":7,"start":8},"program":{"pid":9,"start":10},` +
		`"stop":{"signal":"TERM","timeout":1},"end":{"at":"2026-01-01T00:00:00Z","how":"exited with status 1","after":5,"tail":"x"}}`))
	f.Add([]byte(`{"run":"r","shim":{"pid":-1}}`))
	f.Add([]byte(`{`))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := decodeState(text)
		switch {
		case err != nil:
			if !errors.Is(err, errDamaged) || s != nil {
				t.Errorf("decodeState(%q) = %+v, %v", text, s, err)
			}
		case s.Run == "" || s.Shim.PID <= 0 || s.Replica < 0 || s.Replica >= MaxReplicas:
			t.Errorf("decodeState(%q) = %+v", text, s)
		}
	})
}

// FuzzReadOrder shows that a shim starts nothing that it could not tell of.
func FuzzReadOrder(f *testing.F) {
	f.Add([]byte(`{"state":{"name":"a","run":"r"},"state_path":"/s","stop_path":"/t","log_path":"/l","log_bytes":9,"log_files":1,` +
		`"argv":["/bin/true"],"env":["A=b"],"dir":"/","as":{"uid":1,"gid":2,"groups":[3]}}`))
	f.Add([]byte(`{"argv":["/bin/true"]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var s shim
		if err := s.read(bytes.NewReader(text)); err == nil && (len(s.Argv) == 0 || s.State.Run == "" || s.StatePath == "" || s.LogPath == "") {
			t.Errorf("read(%q) = %+v", text, s.order)
		}
	})
}

// FuzzReadNote shows that a note that is believed can have been written.
func FuzzReadNote(f *testing.F) {
	f.Add([]byte(`{"version":"v","replicas":2,"stop":{"signal":"TERM","timeout":10000000000}}`))
	f.Add([]byte(`{"version":"v","replicas":-2}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		n, err := readNote(text)
		if err == nil && text != nil && (n.Version == "" || n.Replicas < 0 || n.Replicas > MaxReplicas) || err != nil && n != (note{}) {
			t.Errorf("readNote(%q) = %+v, %v", text, n, err)
		}
	})
}

// TestRotatedLog shows where a log is cut.
func TestRotatedLog(t *testing.T) {
	for _, c := range []struct {
		writes []string
		want   [3]string // the newest first
	}{
		{[]string{"abc\n", "def\n"}, [3]string{"abc\ndef\n"}},
		{[]string{"abc\ndef\ngh\n"}, [3]string{"gh\n", "abc\ndef\n"}},
		{[]string{"abc\nde", "f\nghi\n"}, [3]string{"ghi\n", "abc\ndef\n"}},
		{[]string{"abcdef", "ghijkl\n", "m\n"}, [3]string{"m\n", "abcdefghijkl\n"}}, // a line may end where it began
		{[]string{"abc\ndef\n", "ghi\njkl\n", "mno\n"}, [3]string{"mno\n", "ghi\njkl\n", "abc\ndef\n"}},
		{[]string{"1\n2\n3\n4\n5\n6\n7\n8\n9\na\nb\nc\nd\ne\n"}, [3]string{"d\ne\n", "9\na\nb\nc\n", "5\n6\n7\n8\n"}}, // the oldest goes
	} {
		path := t.TempDir() + "/log"
		l := &rotatedLog{path: path, most: 8, olds: 2}
		for _, text := range c.writes {
			l.write([]byte(text))
		}
		l.close()
		var got [3]string
		for i, name := range []string{path, path + ".1", path + ".2"} {
			text, _ := readSmall(name)
			got[i] = string(text)
		}
		if got != c.want {
			t.Errorf("after %q the logs are %q, want %q", c.writes, got, c.want)
		}
	}
}
