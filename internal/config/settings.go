package config

import (
	"cmp"
	"fmt"
	"path/filepath"
	"reflect"
	"time"

	"espalier/internal/apply"
	"espalier/internal/desired"
)

// Settings are what an agent is told of itself, by one of several who may. A zero
// field is one of which nothing was said.
type Settings struct {
	// Host is the host's name.
	Host string
	// Server is an address, or several separated by commas.
	Server string
	// Data is the agent's folder.
	Data string
	// Interval is the time between polls; of 0: what the server says.
	Interval *time.Duration
}

// The variables of the environment that say the same.
const (
	EnvHost   = "ESPALIER_HOST"
	EnvServer = "ESPALIER_SERVER"
	EnvData   = "ESPALIER_DATA"
)

// Environment returns what the environment says, as os.Getenv reads it.
func Environment(getenv func(string) string) Settings {
	return Settings{Host: getenv(EnvHost), Server: getenv(EnvServer), Data: getenv(EnvData)}
}

// Over returns what holds where both say something: what s says, and for the rest
// what is under it. Flags are over the environment, which is over a file.
func (s Settings) Over(under Settings) Settings {
	return Settings{
		Host:     cmp.Or(s.Host, under.Host),
		Server:   cmp.Or(s.Server, under.Server),
		Data:     cmp.Or(s.Data, under.Data),
		Interval: cmp.Or(s.Interval, under.Interval),
	}
}

// Changes are the fields of the file that differ between two configurations.
type Changes struct {
	// Restart are those that only a new start of the agent takes over, Now those
	// that a running one can, both in the file's order.
	Restart, Now []string
}

// Compare returns what differs in next from what runs. Both are with what the
// environment and flags say over them, or what those override would be among it.
func Compare(running, next *Config) Changes {
	var c Changes
	differ := func(to *[]string, name string, a, b any) {
		if !reflect.DeepEqual(a, b) {
			*to = append(*to, name)
		}
	}
	differ(&c.Restart, "host", running.Host, next.Host)
	differ(&c.Restart, "server", running.Server, next.Server)
	differ(&c.Restart, "data", running.Data, next.Data)
	differ(&c.Restart, "interval", running.Interval, next.Interval)
	differ(&c.Now, "drivers", running.Routes, next.Routes)
	a, b := running.Policy, next.Policy
	scansA, scansB := takeScans(&a), takeScans(&b)
	differ(&c.Now, "apply", a, b)
	differ(&c.Now, "scan", scansA, scansB)
	return c
}

// takeScans takes what a policy says of scans out of it, and returns it.
func takeScans(p *apply.Policy) apply.Policy {
	scans := apply.Policy{
		ScanInterval: p.ScanInterval, ScanRate: p.ScanRate,
		ContentsInterval: p.ContentsInterval, ContentsRate: p.ContentsRate, ContentsBytes: p.ContentsBytes,
	}
	p.ScanInterval, p.ScanRate, p.ContentsInterval, p.ContentsRate, p.ContentsBytes = 0, 0, 0, 0, 0
	return scans
}

// CheckRoots returns an error that matches desired.ErrInvalid if a driver would
// write to the agent's own folder, which a file need not name.
func (c *Config) CheckRoots() error {
	for _, route := range c.Routes {
		f, ok := route.Driver.(*FileDriver)
		if !ok || c.Data == "" {
			continue
		}
		data, err := filepath.Abs(c.Data)
		if err != nil {
			return fmt.Errorf("folder %s: %w", c.Data, err)
		}
		if within(f.Root, data) {
			return fmt.Errorf("%w root %s: it is in the agent's own folder, %s", desired.ErrInvalid, f.Root, data)
		}
	}
	return nil
}
