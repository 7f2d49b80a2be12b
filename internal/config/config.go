// Package config answers what an agent's configuration file says: of the agent
// itself, which driver gets which objects, and what may be done to the host and
// when. It opens no driver, and reads nothing but the file. docs/configuration.md
// describes it for operators.
package config

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"

	"espalier/internal/apply"
	"espalier/store"
)

// Config is what a file says.
type Config struct {
	// Settings are the agent's own, which the environment and flags may override.
	Settings
	// Routes say which driver gets which objects, in the file's order.
	Routes []Route
	// Policy says what may be done to the host, and when.
	Policy apply.Policy
}

// Route hands the objects whose keys begin with a prefix to a driver. No two of a
// file have the same prefix.
type Route struct {
	// Prefix is what the keys begin with, up to a "/"; empty: all.
	Prefix string
	// Driver is a *FileDriver, *ProcessDriver or *ExecDriver.
	Driver Driver
}

// Driver says which driver it is, and with which options.
type Driver interface {
	// Kind is the driver's name in the file.
	Kind() string
	// Label says which driver made an object true: if it is another the next time,
	// the object is applied anew. At most store.MaxRouteBytes.
	Label() string
}

// FileDriver keeps files below a folder.
type FileDriver struct {
	// Root is an absolute path; that of no route is within another's.
	Root string
	// Adopt has it take over files that are in the way.
	Adopt bool
	// Unmanaged are patterns of names that are left alone.
	Unmanaged []string
	// CrossMounts has it enter mount points below the root.
	CrossMounts bool
	// MaxWatches bounds the folders that are watched; 0: the driver's default.
	MaxWatches int
}

// ProcessDriver keeps programs running.
type ProcessDriver struct {
	// Logs is the folder of their logs, an absolute path, and that of no two routes;
	// empty: the driver's default.
	Logs string
	// LogBytes bounds a log file, LogFiles the older ones that are kept of each; 0:
	// the driver's defaults.
	LogBytes int64
	LogFiles int
}

// ExecDriver hands changes to a program. Its fields are those of exec.Options.
type ExecDriver struct {
	Command         []string
	Batch, Parallel int
	Timeout         time.Duration
	Check           bool
	Env             []string // ascending
	Dir             string
}

// Kind implements Driver.
func (*FileDriver) Kind() string { return "file" }

// Kind implements Driver.
func (*ProcessDriver) Kind() string { return "process" }

// Kind implements Driver.
func (*ExecDriver) Kind() string { return "exec" }

// Label implements Driver: files in another folder are other files.
func (d *FileDriver) Label() string { return label(d.Kind(), d.Root) }

// Label implements Driver.
func (d *ProcessDriver) Label() string { return label(d.Kind()) }

// Label implements Driver: another program, or other arguments, may make
// something else of the same object.
func (d *ExecDriver) Label() string { return label(d.Kind(), d.Command...) }

// label returns words as one, with a hash in the place of what is too long.
func label(kind string, words ...string) string {
	text := strings.Join(append([]string{kind}, words...), " ")
	if len(text) <= store.MaxRouteBytes {
		return text
	}
	sum := sha256.Sum256([]byte(text))
	return kind + " " + hex.EncodeToString(sum[:])
}
