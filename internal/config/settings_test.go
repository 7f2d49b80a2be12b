package config_test

import (
	"errors"
	"reflect"
	"testing"
	"time"

	"espalier/internal/config"
	"espalier/internal/desired"
)

// TestPrecedence shows whose word counts: flags, the environment, the file.
func TestPrecedence(t *testing.T) {
	d := func(d time.Duration) *time.Duration { return &d }
	env := func(vars map[string]string) config.Settings {
		return config.Environment(func(name string) string { return vars[name] })
	}
	full := config.Settings{Host: "file", Server: "file:1", Data: "/file", Interval: d(time.Minute)}
	all := map[string]string{"ESPALIER_HOST": "env", "ESPALIER_SERVER": "env:1", "ESPALIER_DATA": "/env"}
	for name, c := range map[string]struct {
		flags config.Settings
		env   map[string]string
		file  config.Settings
		want  config.Settings
	}{
		"nothing":                  {},
		"the file alone":           {file: full, want: full},
		"the environment over it":  {env: all, file: full, want: config.Settings{Host: "env", Server: "env:1", Data: "/env", Interval: d(time.Minute)}},
		"flags over both":          {flags: config.Settings{Host: "flag", Interval: d(0)}, env: all, file: full, want: config.Settings{Host: "flag", Server: "env:1", Data: "/env", Interval: d(0)}},
		"flags over the file":      {flags: config.Settings{Server: "flag:1"}, file: full, want: config.Settings{Host: "file", Server: "flag:1", Data: "/file", Interval: d(time.Minute)}},
		"flags alone":              {flags: full, want: full},
		"flags and an environment": {flags: config.Settings{Data: "/flag"}, env: all, want: config.Settings{Host: "env", Server: "env:1", Data: "/flag"}},
	} {
		if got := c.flags.Over(env(c.env)).Over(c.file); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

// TestCompare shows what a running agent can take over, and what it can't.
func TestCompare(t *testing.T) {
	const base = "host: a\nserver: a:1\ndata: /d\ninterval: 1m\ndrivers: [{prefix: a/, driver: file, root: /r}]\napply: {rate: 1}\nscan: {rate: 1}\n"
	parse := func(text string) *config.Config {
		t.Helper()
		c, err := config.Parse("f", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for _, c := range []struct {
		next         string
		restart, now []string
	}{
		{base, nil, nil},
		{"# moved by a line\n" + base, nil, nil},
		{
			"host: b\nserver: a:2\ndata: /e\ninterval: 2m\ndrivers: [{prefix: a/, driver: file, root: /r, adopt: true}]\napply: {rate: 2}\nscan: {rate: 2}\n",
			[]string{"host", "server", "data", "interval"},
			[]string{"drivers", "apply", "scan"},
		},
		{"host: a\nserver: a:1\ndata: /d\n", []string{"interval"}, []string{"drivers", "apply", "scan"}},
		{"host: a\nserver: a:1\ndata: /d\ninterval: 60s\ndrivers: [{prefix: a/, driver: process}]\napply: {rate: 1}\nscan: {rate: 1}\n", nil, []string{"drivers"}},
		{"host: a\nserver: a:1\ndata: /d\ninterval: 1m\ndrivers: [{prefix: a/, driver: file, root: /r}]\napply: {rate: 1, max_delete: 3}\nscan: {rate: 1}\n", nil, []string{"apply"}},
		{"host: a\nserver: a:1\ndata: /d\ninterval: 1m\ndrivers: [{prefix: a/, driver: file, root: /r}]\napply: {rate: 1}\nscan: {rate: 1, contents_bytes: 1}\n", nil, []string{"scan"}},
	} {
		got := config.Compare(parse(base), parse(c.next))
		if want := (config.Changes{Restart: c.restart, Now: c.now}); !reflect.DeepEqual(got, want) {
			t.Errorf("Compare(%q) = %+v, want %+v", c.next, got, want)
		}
	}
}

func TestCheckRoots(t *testing.T) {
	c, err := config.Parse("f", []byte("drivers: [{prefix: a/, driver: file, root: /srv/site}]"))
	if err != nil {
		t.Fatal(err)
	}
	for data, bad := range map[string]bool{"": false, "/var": false, "/srv/site/x": false, "/srv": true, "/srv/site/": true, "/": true} {
		c.Data = data
		if err := c.CheckRoots(); errors.Is(err, desired.ErrInvalid) != bad || !bad && err != nil {
			t.Errorf("CheckRoots with data %q = %v, want an error: %t", data, err, bad)
		}
	}
}
