// Package cli is the command line: what each command of espalier takes, what it
// prints for people and for programs, and which exit status it ends with.
package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"espalier/agent"
	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/internal/wire"
	"espalier/store"
)

// The exit statuses; scripts rely on them.
const (
	exitDone        = 0
	exitFailed      = 1
	exitMisuse      = 2
	exitRefused     = 3
	exitUnreachable = 4
)

// Streams are what a command reads and writes. Data goes to Out, everything
// else to Err.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// misuse is an error of the command line itself.
type misuse struct{ error }

func (m misuse) Unwrap() error { return m.error }

func misusef(format string, args ...any) error { return misuse{fmt.Errorf(format, args...)} }

// refused is an error of a command that holds back by itself.
type refused struct{ error }

func (r refused) Unwrap() error { return r.error }

// Main runs the command that args name and returns its exit status. SIGINT and
// SIGTERM end it cleanly, and a second one at once.
func Main(args []string, s Streams) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	a := &app{Streams: s}
	root := a.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil && !errors.Is(err, errSilent) {
		fmt.Fprintf(s.Err, "espalier: %s\n", strings.TrimSpace(err.Error()))
	}
	return exitStatus(err)
}

// errSilent ends a command whose output has said already what is wrong.
var errSilent = errors.New("failed")

func exitStatus(err error) int {
	var m misuse
	var r refused
	switch {
	case err == nil:
		return exitDone
	case errors.Is(err, delta.ErrProtocol): // whatever else it matches, it is not the user's doing
		return exitFailed
	case errors.As(err, &m), errors.Is(err, desired.ErrInvalid):
		return exitMisuse
	case errors.As(err, &r), errors.Is(err, store.ErrConflict), errors.Is(err, store.ErrTooManyDeletes),
		errors.Is(err, store.ErrRequestReused), errors.Is(err, agent.ErrUnsafe):
		return exitRefused
	case errors.Is(err, wire.ErrUnreachable):
		return exitUnreachable
	default:
		return exitFailed
	}
}

// app is one run of the command line.
type app struct {
	Streams
	output string // "" for people, "json" for programs
	remote remote
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "espalier",
		Short: "Desired state for fleets: only what changed crosses the wire, and every result is proven",
		Long: "Espalier keeps a hashed tree over each host's desired state. Agents poll with the root that\n" +
			"they hold; where it differs, only what changed is sent, and nothing counts until its root\n" +
			"is verified.\n\nTry it: espalier demo",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return misusef("unknown command %q\nsee 'espalier --help'", args[0])
			}
			return nil
		},
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(c *cobra.Command, _ []string) error {
			if a.output != "" && a.output != "json" {
				return misusef("unknown output %q: use -o json, or leave it out", a.output)
			}
			if err := c.ValidateRequiredFlags(); err != nil { // cobra would, but not call it misuse
				return misusef("%w\nsee '%s --help'", err, c.CommandPath())
			}
			return nil
		},
	}
	root.SetIn(a.In)
	root.SetOut(a.Out)
	root.SetErr(a.Err)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return misusef("%w\nsee '%s --help'", err, c.CommandPath())
	})
	root.PersistentFlags().StringVarP(&a.output, "output", "o", "", "json: print JSON for programs")
	root.AddGroup(
		&cobra.Group{ID: "run", Title: "Run:"},
		&cobra.Group{ID: "publish", Title: "Publish:"},
		&cobra.Group{ID: "maintain", Title: "Maintain:"},
	)
	group := func(id string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = id
			root.AddCommand(c)
		}
	}
	group("run", a.demoCommand(), a.serveCommand(), a.agentCommand(), a.benchCommand())
	group("publish", a.applyCommand(), a.setCommand(), a.getCommand(), a.deleteCommand(), a.listCommand(),
		a.headCommand(), a.logCommand(), a.setsCommand())
	group("maintain", a.checkCommand(), a.compactCommand(), a.backupCommand(), a.restoreCommand())
	root.AddCommand(a.probeCommand())
	return root
}

// logger writes to standard error.
func (a *app) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(a.Err, nil))
}

// exactArgs is cobra.ExactArgs as misuse, naming what is missing.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != len(names) {
			return misusef("%s takes %s, got %d arguments\nsee '%s --help'",
				c.CommandPath(), cmp.Or(strings.Join(names, " "), "none"), len(args), c.CommandPath())
		}
		return nil
	}
}
