// Peers measures Espalier against others that bring state to where it is needed,
// at the same work: etcd, NATS JetStream, Envoy's delta xDS and rsync.
//
// It is a module of its own, so that Espalier doesn't depend on what it is
// compared with. Run it by "make bench-peers" in the repository's root.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"espalier/bench/peers/internal/contest"
	"espalier/bench/peers/internal/peer"
)

func main() {
	if peer.IsChild() {
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	if ctx.Err() != nil {
		err = errors.New("interrupted; everything that was started has ended, and the temporary folder is removed")
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// config is what the flags say.
type config struct {
	options      contest.Options
	only, output string
	report       string
	timeout      time.Duration
}

// defaultTimeout is several times what a million objects and 3 runs take on two
// cores.
const defaultTimeout = 3 * time.Hour

func parse(args []string) (config, error) {
	var c config
	f := flag.NewFlagSet("peers", flag.ContinueOnError)
	f.IntVar(&c.options.Objects, "objects", 1_000_000, "number of objects")
	f.IntVar(&c.options.Runs, "runs", 3, "how often each is measured; the table has medians")
	f.Uint64Var(&c.options.Seed, "seed", 1, "what the objects and changes are made from")
	f.DurationVar(&c.options.Idle, "idle", time.Minute, "for how long a client that waits is watched")
	f.DurationVar(&c.options.Enough, "enough", 2*time.Minute, "repeat no further what has taken as long; 0: whatever it takes")
	f.StringVar(&c.options.Espalier, "espalier", "", "the program espalier; empty: it is built")
	f.StringVar(&c.only, "only", "", "some of "+strings.Join(names(), ", ")+", separated by commas; empty: all")
	f.StringVar(&c.output, "o", "markdown", "markdown or json")
	f.StringVar(&c.report, "report", "", "folder to write peers.md and peers.json into, which with --only keep what is there of others; empty: none")
	f.DurationVar(&c.timeout, "timeout", defaultTimeout, "end after this at the latest")
	if err := f.Parse(args); err != nil {
		return c, err
	}
	if f.NArg() > 0 {
		return c, fmt.Errorf("%q: there are only flags", f.Arg(0))
	}
	if c.output != "markdown" && c.output != "json" {
		return c, fmt.Errorf("-o %s: want markdown or json", c.output)
	}
	var err error
	c.options.Kinds, err = chosen(c.only)
	return c, err
}

// kind is what can be measured, by a short name.
type kind struct {
	name string
	make func() peer.Kind
}

func kinds() []kind {
	return []kind{{"espalier", peer.Espalier}, {"etcd", peer.Etcd}, {"nats", peer.NATS}, {"xds", peer.XDS}, {"rsync", peer.Rsync}}
}

func names() []string {
	var all []string
	for _, k := range kinds() {
		all = append(all, k.name)
	}
	return all
}

// chosen returns those that are named, or all.
func chosen(only string) ([]peer.Kind, error) {
	want := names()
	if only != "" {
		want = strings.Split(only, ",")
	}
	for _, name := range want {
		if !slices.Contains(names(), name) {
			return nil, fmt.Errorf("--only %s: there is no %q; there are %s", only, name, strings.Join(names(), ", "))
		}
	}
	var all []peer.Kind
	for _, k := range kinds() {
		if slices.Contains(want, k.name) {
			all = append(all, k.make())
		}
	}
	return all, nil
}

func run(ctx context.Context, args []string) (err error) {
	c, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.timeout, fmt.Errorf("it takes longer than the %v of --timeout", c.timeout))
	defer cancel()
	if c.options.Dir, err = os.MkdirTemp("", "espalier-peers-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(c.options.Dir)) }()
	began := time.Now()
	c.options.Log = func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "%6.1f s  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}
	if err := c.prepareEspalier(ctx); err != nil {
		return err
	}
	report, err := contest.Run(ctx, c.options)
	if err != nil {
		return err
	}
	return c.publish(report)
}

// prepareEspalier builds the program unless there is one, and asks it who it is.
func (c *config) prepareEspalier(ctx context.Context) error {
	at := slices.IndexFunc(c.options.Kinds, func(k peer.Kind) bool { return k.Name == peer.Espalier().Name })
	if at < 0 {
		return nil
	}
	if c.options.Espalier == "" {
		c.options.Espalier = filepath.Join(c.options.Dir, "espalier")
		if err := peer.BuildEspalier(ctx, c.options.Espalier); err != nil {
			return err
		}
	}
	program, err := filepath.Abs(c.options.Espalier)
	if err != nil {
		return err
	}
	c.options.Espalier = program
	c.options.Kinds[at].Version, err = peer.EspalierVersion(ctx, program)
	return err
}

// publish prints the report, and writes it where it is to be kept.
func (c *config) publish(r contest.Report) error {
	kept := c.keep(&r)
	document, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	document = append(document, '\n')
	text := []byte(r.Markdown())
	if c.report != "" && kept == nil {
		err = errors.Join(os.MkdirAll(c.report, 0o755),
			os.WriteFile(filepath.Join(c.report, "peers.md"), text, 0o644),
			os.WriteFile(filepath.Join(c.report, "peers.json"), document, 0o644))
	}
	if c.output == "json" {
		text = document
	}
	_, printed := os.Stdout.Write(text)
	if err := errors.Join(kept, err, printed); err != nil {
		return err
	}
	if r.Failed() {
		return errors.New("something failed, or a copy is wrong; see the report")
	}
	return nil
}

// keep adds what an earlier report says of others, if only some were measured.
func (c *config) keep(r *contest.Report) error {
	if c.only == "" || c.report == "" {
		return nil
	}
	path := filepath.Join(c.report, "peers.json")
	document, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var earlier contest.Report
	if err == nil {
		err = json.Unmarshal(document, &earlier)
	}
	if err == nil {
		err = r.Keep(earlier)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
