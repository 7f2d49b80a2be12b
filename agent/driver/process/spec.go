package process

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"espalier/internal/desired"
)

// Spec is what an object says of a program.
type Spec struct {
	// Argv is the program's absolute path and its arguments.
	Argv []string
	// Replicas is how many copies run, 0 to MaxReplicas.
	Replicas int
	// Env is added to the environment of the copies.
	Env map[string]string
	// Dir is the folder that they run in.
	Dir string
	// User says as whom: "NAME", "NAME:GROUP" or the like with numbers; empty: as
	// whom the agent runs.
	User string
	// Stop says how one is stopped.
	Stop Stopping
	// ReadyAfter is how long one has to stay up before it counts.
	ReadyAfter time.Duration
}

// Stopping says how a copy is stopped: by Signal to its process group and, if it
// is still there after Timeout, by SIGKILL.
type Stopping struct {
	Signal  string        `json:"signal"`  // as "TERM"
	Timeout time.Duration `json:"timeout"` // in nanoseconds, where it is written to a file
}

// stopSignals are those by which programs are asked to stop.
var stopSignals = []string{"TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "WINCH", "KILL"}

// reservedEnv begins the names of the variables that are the driver's.
const reservedEnv = "ESPALIER_"

// specText is a Spec as it stands in an object.
type specText struct {
	Argv        []string          `json:"argv"`
	Replicas    *int              `json:"replicas"`
	Env         map[string]string `json:"env"`
	Dir         *string           `json:"dir"`
	User        string            `json:"user"`
	StopTimeout *string           `json:"stop_timeout"`
	StopSignal  *string           `json:"stop_signal"`
	ReadyAfter  *string           `json:"ready_after"`
}

// fieldKinds says what each field holds.
var fieldKinds = map[string]string{
	"argv":         "a list of texts",
	"replicas":     "a whole number",
	"env":          "an object of texts",
	"dir":          "a text",
	"user":         "a text",
	"stop_timeout": `a text such as "10s"`,
	"stop_signal":  `a text such as "TERM"`,
	"ready_after":  `a text such as "1s"`,
}

// ParseSpec reads an object's value. Its errors match desired.ErrInvalid and name
// the field.
func ParseSpec(value []byte) (Spec, error) {
	if len(value) > MaxSpecBytes {
		return Spec{}, invalidf("%d bytes, at most %d are allowed", len(value), MaxSpecBytes)
	}
	var t specText
	if err := json.Unmarshal(value, &t, json.RejectUnknownMembers(true)); err != nil {
		return Spec{}, explainJSON(err)
	}
	s := Spec{Argv: t.Argv, Replicas: 1, Env: t.Env, Dir: "/", User: t.User}
	if t.Replicas != nil {
		s.Replicas = *t.Replicas
	}
	if t.Dir != nil {
		s.Dir = *t.Dir
	}
	var err error
	if s.Stop.Timeout, err = parseDuration("stop_timeout", t.StopTimeout, DefaultStopTimeout, MaxStopTimeout); err != nil {
		return Spec{}, err
	}
	if s.ReadyAfter, err = parseDuration("ready_after", t.ReadyAfter, DefaultReadyAfter, MaxReadyAfter); err != nil {
		return Spec{}, err
	}
	if s.Stop.Signal, err = parseSignal(t.StopSignal); err != nil {
		return Spec{}, err
	}
	return s, s.check()
}

func invalidf(format string, args ...any) error {
	return fmt.Errorf("%w process: %w", desired.ErrInvalid, fmt.Errorf(format, args...))
}

// explainJSON returns what to tell of a value that can't be decoded.
func explainJSON(err error) error {
	var semantic *json.SemanticError
	if !errors.As(err, &semantic) {
		return invalidf("it is not one JSON object: %s", strings.TrimPrefix(err.Error(), "jsontext: "))
	}
	field, rest, _ := strings.Cut(strings.TrimPrefix(string(semantic.JSONPointer), "/"), "/")
	want, known := fieldKinds[field]
	switch {
	case errors.Is(semantic.Err, json.ErrUnknownName):
		return invalidf("unknown field %q: there are %s", clip(field, 100), strings.Join(slices.Sorted(maps.Keys(fieldKinds)), ", "))
	case !known:
		return invalidf(`want a JSON object such as {"argv":["/usr/sbin/httpd"],"replicas":2}`)
	case rest != "":
		return invalidf("field %s, at %q: want %s, found %s", field, clip(rest, 100), want, kindName(semantic.JSONKind))
	default:
		return invalidf("field %s: want %s, found %s", field, want, kindName(semantic.JSONKind))
	}
}

func kindName(k jsontext.Kind) string {
	switch k {
	case '"':
		return "a text"
	case '0':
		return "another number"
	case 't', 'f':
		return "true or false"
	case '[':
		return "a list"
	case '{':
		return "an object"
	default:
		return "something else"
	}
}

func parseDuration(field string, text *string, standard, most time.Duration) (time.Duration, error) {
	if text == nil {
		return standard, nil
	}
	d, err := time.ParseDuration(*text)
	if err != nil || d < 0 || d > most {
		return 0, invalidf("field %s: %q is not a time from 0s to %v, such as %q", field, clip(*text, 100), most, standard.String())
	}
	return d, nil
}

func parseSignal(text *string) (string, error) {
	if text == nil {
		return stopSignals[0], nil
	}
	name := strings.TrimPrefix(*text, "SIG")
	if !slices.Contains(stopSignals, name) {
		return "", invalidf("field stop_signal: %q is none of %s", clip(*text, 100), strings.Join(stopSignals, ", "))
	}
	return name, nil
}

func (s Spec) check() error {
	switch {
	case len(s.Argv) == 0:
		return invalidf("field argv is missing or empty: it begins with the program's absolute path")
	case len(s.Argv) > MaxArgs:
		return invalidf("field argv: %d arguments, at most %d are allowed", len(s.Argv), MaxArgs)
	case !filepath.IsAbs(s.Argv[0]):
		return invalidf("field argv: the program %q is not an absolute path", clip(s.Argv[0], 100))
	case s.Replicas < 0 || s.Replicas > MaxReplicas:
		return invalidf("field replicas: %d is not from 0 to %d", s.Replicas, MaxReplicas)
	case len(s.Env) > MaxEnv:
		return invalidf("field env: %d variables, at most %d are allowed", len(s.Env), MaxEnv)
	case !filepath.IsAbs(s.Dir):
		return invalidf("field dir: %q is not an absolute path", clip(s.Dir, 100))
	}
	for i, arg := range s.Argv {
		if err := checkText(fmt.Sprintf("argv, at %d", i), arg); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Env)) {
		switch {
		case name == "" || strings.Contains(name, "="):
			return invalidf("field env: %q can't be the name of a variable", clip(name, 100))
		case strings.HasPrefix(name, reservedEnv):
			return invalidf("field env: %q: names that begin with %s are set by the agent", clip(name, 100), reservedEnv)
		}
		if err := checkText(fmt.Sprintf("env, at %q", clip(name, 100)), name+"="+s.Env[name]); err != nil {
			return err
		}
	}
	return errors.Join(checkText("dir", s.Dir), checkText("user", s.User))
}

func checkText(where, text string) error {
	switch {
	case len(text) > MaxTextBytes:
		return invalidf("field %s: %d bytes, at most %d are allowed", where, len(text), MaxTextBytes)
	case strings.ContainsRune(text, 0):
		return invalidf("field %s: it has a zero byte, which no program can be given", where)
	}
	return nil
}

// clip returns s, or as much of it as fits, as printable UTF-8.
func clip(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	if len(s) <= most {
		return s
	}
	cut := most - len("…")
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}

// version names what a running copy was started with: copies of one version need
// not be started anew, whatever else their object says now.
func (s Spec) version() string {
	b := binary.AppendUvarint(nil, uint64(len(s.Argv)))
	text := func(t string) { b = append(binary.AppendUvarint(b, uint64(len(t))), t...) }
	for _, arg := range s.Argv {
		text(arg)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Env)) {
		text(name + "=" + s.Env[name])
	}
	text(s.Dir)
	text(s.User)
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:12])
}
