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
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"espalier/agent"
	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/internal/fleet"
	"espalier/internal/onhost"
	"espalier/internal/pki"
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

// Main runs the command that args name and returns its exit status. SIGINT,
// SIGTERM and SIGHUP end it cleanly, and a second one at once; so does a standard
// output that can't be written to.
func Main(args []string, s Streams) int {
	a := &app{Streams: s}
	ctx, stop := a.notifyContext()
	defer stop()
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	o := &out{to: s.Out, end: end}
	a.Out = o
	root := a.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	err = errors.Join(err, a.err)
	if o.err != nil && (err == nil || errors.Is(err, o.err) || errors.Is(err, context.Canceled)) {
		err = fmt.Errorf("standard output: %w", o.err)
	}
	if err != nil && !errors.Is(err, syscall.EPIPE) { // who closed the pipe knows
		fmt.Fprintf(s.Err, "espalier: %s\n", a.explain(ctx, err))
	}
	return exitStatus(err)
}

// notifyContext returns a context that ends with the first signal to end; the
// second has its usual effect. SIGHUP is one unless a command has another use for
// it, or the program runs under nohup.
func (a *app) notifyContext() (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	ctx, cancel := context.WithCancel(ctx)
	if !signal.Ignored(syscall.SIGHUP) {
		hangups := make(chan os.Signal, 1)
		signal.Notify(hangups, syscall.SIGHUP)
		context.AfterFunc(ctx, func() { signal.Stop(hangups) })
		go func() { // ends with the context
			for {
				select {
				case <-ctx.Done():
					return
				case <-hangups:
					if !a.hangup() {
						cancel()
					}
				}
			}
		}()
	}
	// A pipe that was closed is an error of the write, and not the end of the
	// process. Unlike with signal.Ignore, children are not affected.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	return ctx, func() {
		cancel()
		stop()
	}
}

// onHangup has SIGHUP mean something else than the end: it is told to ch, which
// holds one, until stop is called.
func (a *app) onHangup(ch chan<- struct{}) (stop func()) {
	a.hangups.Store(&ch)
	return func() { a.hangups.Store(nil) }
}

// hangup reports whether somebody has a use for SIGHUP, who is told of it.
func (a *app) hangup() bool {
	ch := a.hangups.Load()
	if ch == nil {
		return false
	}
	select {
	case *ch <- struct{}{}:
	default: // it is about to be heard
	}
	return true
}

// explain returns what to tell a person about err.
func (a *app) explain(ctx context.Context, err error) string {
	text := strings.TrimSpace(err.Error())
	switch {
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		return "interrupted: " + strings.ReplaceAll(text, context.Canceled.Error(), "the command was given up")
	default:
		if impostor(err) { // somebody was reached
			text = strings.Replace(text, wire.ErrUnreachable.Error()+": ", "", 1)
		}
		return strings.TrimSuffix(text+"\n"+a.advise(err), "\n")
	}
}

// advise returns what to do about err, if there is anything to say.
func (a *app) advise(err error) string {
	r := &a.remote
	switch {
	case impostor(err):
		return fmt.Sprintf("is %s the server that the credentials, or the token, are from? --server, or ESPALIER_SERVER, says where it is", r.address)
	case errors.Is(err, wire.ErrNoServer) && r.insecure:
		return "if the server has TLS, leave --insecure out"
	case errors.Is(err, wire.ErrPlain):
		return "if the server runs with --insecure, this needs it too"
	case errors.Is(err, wire.ErrUnreachable):
		return fmt.Sprintf("is 'espalier serve' running at %s? --server, or ESPALIER_SERVER, says where it is", r.address)
	case errors.Is(err, store.ErrNoToken):
		return "'espalier token create' makes a new one, for an admin"
	case errors.Is(err, wire.ErrOtherToken):
		return "'espalier login' takes the token of an operator, 'espalier agent --join' that of its host"
	case errors.Is(err, wire.ErrDenied):
		return r.adviseDenied()
	default:
		return ""
	}
}

// adviseDenied returns what to do for who is refused, by what he has shown.
func (r *remote) adviseDenied() string {
	switch {
	case r.insecure:
		return ""
	case r.shown == "" && r.made: // an agent
		return "a certificate that was issued later, by your authority, lets this host in again"
	case r.shown == "":
		return "'espalier token create --host NAME', for an admin, makes a token with which --join lets this host in again"
	case r.made:
		return fmt.Sprintf("your credentials are those in %s; --identity names others, which your authority signs", r.shown)
	default:
		return fmt.Sprintf("your credentials are those in %s; 'espalier login' with a token gets others, and --identity names them", r.shown)
	}
}

// impostor reports whether err says that the other side is not the server that
// it should be. Of what a handshake fails with, gRPC passes on the words alone.
func impostor(err error) bool {
	return err != nil && strings.Contains(err.Error(), pki.ErrImpostor.Error())
}

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
	case errors.As(err, &r), errors.Is(err, onhost.ErrRefused), errors.Is(err, store.ErrConflict), errors.Is(err, store.ErrTooManyDeletes), errors.Is(err, fleet.ErrNotGuarded),
		errors.Is(err, store.ErrCycle), errors.Is(err, store.ErrRequestReused), errors.Is(err, store.ErrForked), errors.Is(err, store.ErrNoToken),
		errors.Is(err, wire.ErrOtherToken),
		errors.Is(err, wire.ErrDenied), errors.Is(err, agent.ErrNotJoined), errors.Is(err, agent.ErrUnsafe), impostor(err):
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
	err    error // of what cobra lets return none
	// hangups is who has a use for SIGHUP; nil: nobody.
	hangups atomic.Pointer[chan<- struct{}]
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "espalier",
		Short: "Desired state for fleets: only what changed crosses the wire, and every result is proven",
		Long: "Espalier keeps a hashed tree over each host's desired state. Agents poll with the root that\n" +
			"they hold; where it differs, only what changed is sent, and nothing counts until its root\n" +
			"is verified.\n\nTry it: espalier demo",
		Version:       version(),
		Args:          exactArgs(),
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(c *cobra.Command, _ []string) error {
			if more := strings.Fields(c.Annotations[moreOutputs]); a.output != "" && a.output != "json" && !slices.Contains(more, a.output) {
				return misusef("unknown output %q: use -o %s, or leave it out", a.output, strings.Join(append([]string{"json"}, more...), ", "))
			}
			if err := c.ValidateRequiredFlags(); err != nil { // cobra would, but not call it misuse
				return misusef("%w\nsee '%s --help'", err, c.CommandPath())
			}
			if why := c.Flags().Lookup("message"); why != nil && !utf8.ValidString(why.Value.String()) {
				return misusef("--message %q: it is not UTF-8", why.Value)
			}
			return nil
		},
	}
	root.SetIn(a.In)
	root.SetOut(a.Out)
	root.SetErr(a.Err)
	root.SetVersionTemplate("espalier {{.Version}}\n")
	root.SetHelpFunc(a.help(root.HelpFunc()))
	root.SetHelpCommand(a.helpCommand())
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return misusef("%w\nsee '%s --help'", err, c.CommandPath())
	})
	root.PersistentFlags().StringVarP(&a.output, "output", "o", "", "json: print JSON for programs")
	complete(root, "output", "json")
	root.AddGroup(
		&cobra.Group{ID: "run", Title: "Run:"},
		&cobra.Group{ID: "publish", Title: "Publish:"},
		&cobra.Group{ID: "fleet", Title: "Fleet:"},
		&cobra.Group{ID: "trust", Title: "Trust:"},
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
	group("fleet", a.hostsCommand(), a.statusCommand(), a.hostCommand())
	group("trust", a.tokenCommand(), a.loginCommand(), a.operatorCommand(), a.auditCommand())
	group("maintain", a.checkCommand(), a.compactCommand(), a.backupCommand(), a.restoreCommand(), a.epochCommand())
	root.AddCommand(a.versionCommand(), a.probeCommand(), a.shimCommand(), a.fleetServerCommand())
	return root
}

// moreOutputs is the annotation of a command that names what -o takes besides json.
const moreOutputs = "outputs"

// complete says which values shells offer for a flag. Naming one that does not
// exist is a mistake in this program.
func complete(c *cobra.Command, flag string, values ...cobra.Completion) {
	completeBy(c, flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
}

// completeBy is complete by a function.
func completeBy(c *cobra.Command, flag string, fn cobra.CompletionFunc) {
	if err := c.RegisterFlagCompletionFunc(flag, fn); err != nil {
		panic(err)
	}
}

// logger writes to standard error.
func (a *app) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(a.Err, nil))
}

// exactArgs is cobra.ExactArgs as misuse, naming what is missing.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		switch {
		case len(args) == len(names):
			return nil
		case c.HasSubCommands():
			return unknownCommand(c, args[len(names)])
		default:
			return misusef("%s takes %s, got %s\nsee '%s --help'", c.CommandPath(),
				cmp.Or(strings.Join(names, " "), "no arguments"), counted(uint64(len(args)), "argument"), c.CommandPath())
		}
	}
}
