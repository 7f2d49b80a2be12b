package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"espalier/internal/durable"
)

// runVariable is the environment variable that marks all processes of one run.
const runVariable = reservedEnv + "RUN"

// state is what a shim writes of its copy, and what the driver knows of it.
type state struct {
	Name    string `json:"name"`
	Replica int    `json:"replica"`
	Version string `json:"version"`
	// Run is random, and new for each start.
	Run  string   `json:"run"`
	Boot string   `json:"boot"`
	Shim identity `json:"shim"`
	// Program is the program, which leads its session and process group; zero: it
	// is not started yet.
	Program identity `json:"program"`
	// Stop is what was said of stopping when it was started.
	Stop Stopping `json:"stop"`
	// End is how the program ended; nil: it runs, or nobody saw its end.
	End *ending `json:"end,omitempty"`
}

// ending is how a program ended.
type ending struct {
	At time.Time `json:"at"`
	// How is "exited with status 1" or the like.
	How   string        `json:"how"`
	After time.Duration `json:"after"`
	// Tail is the last line of its output, at most maxTailBytes.
	Tail string `json:"tail,omitempty"`
	// Left says that some of its processes could not be ended.
	Left bool `json:"left,omitempty"`
}

// String says it in a few words.
func (e ending) String() string { return e.How + " after " + shortly(e.After) }

// shortly returns d as people say it.
func shortly(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%.3gs", d.Round(100*time.Millisecond).Seconds())
	default:
		return d.Round(time.Second).String()
	}
}

// errDamaged is that a file can't be what was written.
var errDamaged = errors.New("damaged")

// readState returns the state that is written at path, nil if none is.
func readState(path string) (*state, error) {
	text, err := readSmall(path)
	if text == nil || err != nil {
		return nil, err
	}
	return decodeState(text)
}

func decodeState(text []byte) (*state, error) {
	var s state
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	if s.Run == "" || s.Shim.PID <= 0 || s.Replica < 0 || s.Replica >= MaxReplicas {
		return nil, fmt.Errorf("%w: it names no run, no shim, or no replica that there can be", errDamaged)
	}
	return &s, nil
}

// readSmall returns the content of a small file, nil if there is none.
func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxStateBytes+1))
	switch {
	case err != nil:
		return nil, err
	case len(text) > maxStateBytes:
		return nil, fmt.Errorf("%s: %w: more than %d bytes", path, errDamaged, maxStateBytes)
	case text == nil:
		text = []byte{}
	}
	return text, nil
}

func writeJSON(path string, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return durable.WriteFile(path, append(text, '\n'), 0o600)
}

// stopOrder is what the driver writes for a shim before it sends it SIGTERM.
type stopOrder struct {
	Run  string   `json:"run"`
	Stop Stopping `json:"stop"`
}

// readStopOrder returns how a run is to stop, nil if nobody said so.
func readStopOrder(path, run string) *Stopping {
	text, err := readSmall(path)
	var o stopOrder
	if text == nil || err != nil || json.Unmarshal(text, &o) != nil || o.Run != run {
		return nil
	}
	return &o.Stop
}

// order is what a shim is started with.
type order struct {
	// State is as the shim shall write it, to StatePath; its own identity and that
	// of the program it adds.
	State     state  `json:"state"`
	StatePath string `json:"state_path"`
	StopPath  string `json:"stop_path"`
	LogPath   string `json:"log_path"`
	LogBytes  int64  `json:"log_bytes"`
	LogFiles  int    `json:"log_files"`

	Argv []string `json:"argv"`
	Env  []string `json:"env"` // "NAME=value"
	Dir  string   `json:"dir"`
	// As says as whom the program runs; nil: as whom the shim does.
	As *account `json:"as,omitempty"`
}

// account is as whom a program runs.
type account struct {
	UID    uint32   `json:"uid"`
	GID    uint32   `json:"gid"`
	Groups []uint32 `json:"groups"`
}
