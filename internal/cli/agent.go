package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"espalier/agent"
	"espalier/internal/config"
	"espalier/internal/desired"
	"espalier/internal/onhost"
	"espalier/internal/pki"
	"espalier/internal/wire"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/store"
)

func (a *app) agentCommand() *cobra.Command {
	var run agentRun
	var join, file string
	var once bool
	o := agent.Options{Probe: probe, Version: version()}
	c := &cobra.Command{
		Use:   "agent [--config FILE] --data DIR [--join TOKEN]",
		Short: "Make this host match its desired state",
		Long: "Mirrors this host's desired state and, by the drivers that the file of --config names, makes the host match it and\n" +
			"keeps it so, whether or not the server can be reached. SIGHUP has it read the file again.\n\n" +
			"With --join it exchanges the token that 'espalier token create --host NAME' printed for a certificate, which it\n" +
			"keeps in DIR, with its key, and renews from then on. Where there is one that the server still takes, the token is\n" +
			"left alone.",
		Args: exactArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			if run.timeout != 0 && !once {
				return misusef("--timeout goes with --once")
			}
			if run.dryRun && once {
				return misusef("--dry-run goes without --once: it does nothing to the host")
			}
			if run.timeout < 0 || o.Interval < 0 {
				return misusef("--timeout and --interval can't be less than 0")
			}
			conf, err := a.configured(c, file)
			if err != nil {
				return err
			}
			o.Dir, o.Server, o.Logger = conf.Data, conf.Server, a.logger()
			if conf.Interval != nil {
				o.Interval = *conf.Interval
			}
			for address := range strings.SplitSeq(o.Server, ",") {
				if err := checkAddress(address, a.remote.insecure); err != nil {
					return err
				}
			}
			if o.Host, err = a.admission(c.Context(), &o, conf.Host, join); err != nil {
				return err
			}
			run.app, run.options, run.config, run.file = a, o, conf, file
			run.reread = func() (*config.Config, error) { return a.configured(c, file) }
			switch {
			case run.dryRun:
				return run.plan(c.Context())
			case once:
				return run.once(c.Context())
			}
			return run.follow(c.Context())
		},
	}
	c.Flags().StringVar(&file, "config", "", "file that says what to apply, by which drivers; see 'espalier agent check-config'")
	c.Flags().String("host", "", "this host's name (or ESPALIER_HOST); needed with --insecure only, else its certificate says it")
	c.Flags().StringVar(&join, "join", "", "token that lets this host join; - reads it from standard input")
	c.Flags().String("data", "", "folder that holds the mirror (or ESPALIER_DATA); made if need be")
	c.Flags().BoolVar(&once, "once", false, "sync, apply until the host has converged, report, and end")
	c.Flags().BoolVar(&run.dryRun, "dry-run", false, "sync, show what would be done to the host, removals included, and end")
	c.Flags().BoolVar(&run.check, "check", false, "first recompute what is mirrored from what is stored; what is damaged is fetched again")
	c.Flags().DurationVar(&run.timeout, "timeout", 0, "with --once: give up after this; 0: never")
	c.Flags().DurationVar(&o.Interval, "interval", 0, "time between polls; 0: what the server says")
	a.remote.addServer(c)
	c.Flags().Lookup("server").Usage = "address of the server, or several separated by commas, one of which is followed (or ESPALIER_SERVER)"
	c.AddCommand(a.checkConfigCommand(), a.agentStatusCommand(), a.agentPauseCommand(), a.agentResumeCommand(), a.agentReleaseCommand())
	return c
}

// admission lets the host join if it is told to, and returns its name.
func (a *app) admission(ctx context.Context, o *agent.Options, host, join string) (desired.Name, error) {
	if a.remote.insecure {
		if join != "" {
			return "", misusef("--join goes without --insecure")
		}
		if host == "" {
			return "", misusef("--host, or ESPALIER_HOST, is needed with --insecure: there is no certificate to say it")
		}
		o.Credentials = insecure.NewCredentials()
		name, err := desired.ParseName(host)
		if err != nil {
			return "", misuse{err}
		}
		return name, nil
	}
	var who pki.Identity
	c, err := agent.Joined(o.Dir)
	if err == nil {
		who, a.remote.made = c.Identity(), !c.ByToken()
	}
	if join != "" {
		if err == nil {
			err = a.dropRevoked(ctx, o)
		}
		if err != nil {
			who, err = a.join(ctx, o, host, join)
		}
	}
	if err != nil {
		return "", err
	}
	if host != "" && host != string(who.Name) {
		return "", misusef("host %s: the certificate in %s is that of %v", host, o.Dir, who)
	}
	return who.Name, nil
}

// join exchanges a token for credentials, and returns who that makes this host:
// the one of that name, unless it is empty.
func (a *app) join(ctx context.Context, o *agent.Options, host, text string) (pki.Identity, error) {
	token, err := a.token(text)
	if err != nil {
		return pki.Identity{}, err
	}
	who, err := agent.Join(ctx, agent.JoinOptions{Server: o.Server, Dir: o.Dir, Token: token, Host: desired.Name(host)})
	if err == nil {
		o.Logger.Info("joined", "host", who.Name, "server", o.Server)
	}
	return who, err
}

// dropRevoked removes the host's credentials if the server refuses them, and
// returns why: they would keep a token from being used. Whatever else it may be
// that the server says, or doesn't, they stay.
func (a *app) dropRevoked(ctx context.Context, o *agent.Options) error {
	path := filepath.Join(o.Dir, store.IdentityFile)
	c, err := pki.ReadCredentials(path)
	if err != nil {
		return err
	}
	address, _, _ := strings.Cut(a.remote.address, ",")
	conn, err := a.remote.dialWith(address, credentials.NewTLS(pki.NewHolder(c).ClientConfig()))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	_, err = espalierv1.NewSyncServiceClient(conn).Poll(ctx, &espalierv1.PollRequest{})
	if status.Code(err) != codes.Unauthenticated {
		return nil
	}
	err = wire.FromStatus(err)
	o.Logger.Warn("the server takes this host's credentials no longer; joining anew", "error", err)
	return errors.Join(err, os.Remove(path))
}

// onceDocument is the outcome of agent --once for programs.
type onceDocument struct {
	Host          desired.Name      `json:"host"`
	Sets          []onceSetDocument `json:"sets"`
	BytesSent     uint64            `json:"bytes_sent"`
	BytesReceived uint64            `json:"bytes_received"`
	RoundTrips    int               `json:"round_trips"`
	Seconds       float64           `json:"seconds"`
	Applied       uint64            `json:"applied"`
	Failed        uint64            `json:"failed"`
	// Applying is how far the host is; absent where it has no drivers.
	Applying *desired.Convergence `json:"applying,omitempty"`
}

// modeFailed is the mode of a set that is not what the server has.
const modeFailed = "failed"

// onceSetDocument tells what is mirrored of a set; epoch and root are empty, and
// the revision 0, where nothing is yet.
type onceSetDocument struct {
	Set      desired.Name `json:"set"`
	Epoch    string       `json:"epoch"`
	Revision uint64       `json:"revision"`
	Root     string       `json:"root"`
	Objects  uint64       `json:"objects"`
	Mode     string       `json:"mode"`
	Upserts  uint64       `json:"upserts"`
	Deletes  uint64       `json:"deletes"`
	Error    string       `json:"error,omitempty"`
}

// once syncs, applies, and reports. Along the way it scrubs a part of what it
// holds, as one that goes on running does.
func (r *agentRun) once(ctx context.Context) error {
	if r.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, r.timeout, errLate)
		defer cancel()
	}
	g, report, err := r.sync(ctx)
	if g == nil {
		return err
	}
	d := onceOf(report)
	applied := r.applyOnce(ctx, g, &d)
	if report.BytesReceived > 0 && ctx.Err() == nil {
		if err := g.Tell(ctx); err != nil {
			r.options.Logger.Warn("the server was not told how this went", "error", err)
		}
	}
	if errors.Is(context.Cause(ctx), errLate) && err != nil {
		err = fmt.Errorf("%w: it took longer than the %v of --timeout", lateness(report), r.timeout)
	}
	err = errors.Join(err, applied, g.Close())
	if errors.Is(err, wire.ErrUnreachable) && report.RoundTrips == 1 && len(r.config.Routes) == 0 {
		return err // there is nothing to report
	}
	return errors.Join(err, r.printOnce(d))
}

// sync opens the agent and syncs once. Without an agent there is an error.
func (r *agentRun) sync(ctx context.Context) (*agent.Agent, agent.Report, error) {
	bar := r.progress("receiving")
	r.options.Progress = func(_ desired.Name, done, total uint64) { bar.Update(done, total) }
	g, err := r.open(ctx)
	if err != nil {
		return nil, agent.Report{}, err
	}
	if err := g.Scrub(ctx); err != nil {
		r.options.Logger.Error("scrub", "error", err)
	}
	report, err := g.Sync(ctx)
	bar.Finish()
	return g, report, err
}

// errNotConverged is the outcome of a run after which something is left to do.
var errNotConverged = errors.New("the host does not match its desired state")

// applyOnce has the host match what is mirrored, whether or not the server was
// reached, and notes in d how that went.
func (r *agentRun) applyOnce(ctx context.Context, g *agent.Agent, d *onceDocument) error {
	if len(r.config.Routes) == 0 {
		return nil
	}
	stop := r.showApplying(g)
	c, err := g.Apply(ctx)
	stop()
	d.Applied, d.Failed, d.Applying = g.Applied(), c.Failed, &c
	switch {
	case err != nil:
		return err
	case ctx.Err() != nil:
		return fmt.Errorf("%w: %d of %s are left; what is applied is kept", errNotConverged, c.Pending, counted(c.Objects, "object"))
	case c.State == desired.Guarded:
		return refused{fmt.Errorf("%w: %s", errNotConverged, c.Reason)}
	case c.State == desired.Converged:
		return nil
	}
	if c.State == desired.Waiting {
		return fmt.Errorf("%w: %s pending, %d of which failed %d times", errNotConverged, counted(c.Pending, "object"), c.Failed, agent.OnceAttempts)
	}
	return fmt.Errorf("%w: %v: %s", errNotConverged, c.State, cmp.Or(c.Reason, counted(c.Pending, "object")+" pending"))
}

// showApplying shows how far it is until stop is called.
func (r *agentRun) showApplying(g *agent.Agent) (stop func()) {
	bar, done, over := r.progress("applying"), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(over)
		most := uint64(0)
		for tick := time.NewTicker(100 * time.Millisecond); ; {
			select {
			case <-done:
				tick.Stop()
				bar.Finish()
				return
			case <-tick.C:
				if c, ok := g.Convergence(); ok && c.Pending > 0 {
					most = max(most, c.Pending)
					bar.Update(most-c.Pending, most)
				}
			}
		}
	}()
	return func() {
		close(done)
		<-over
	}
}

// plan syncs, looks for drift, and prints what would be done. An agent that runs in
// the folder is asked instead.
func (r *agentRun) plan(ctx context.Context) error {
	r.config.Policy.Detect = true
	g, _, err := r.sync(ctx)
	if errors.Is(err, store.ErrInUse) {
		if err := r.printPlan(onhost.NewClient(r.options.Dir).Plan(ctx)); !errors.Is(err, onhost.ErrNotRunning) {
			return err
		}
		return err
	}
	if g == nil {
		return err
	}
	if err != nil {
		r.options.Logger.Warn("not in step with the server; this is what is mirrored", "error", err)
	}
	if len(r.config.Routes) > 0 {
		_, looked := g.Apply(ctx)
		err = errors.Join(err, looked)
	}
	return errors.Join(err, r.printPlan(g.Plan()), g.Close())
}

// errLate is why a sync ends that --timeout ends.
var errLate = errors.New("not in step with the server")

// lateness returns what it means that the time was over.
func lateness(r agent.Report) error {
	if r.BytesReceived == 0 {
		return wire.ErrUnreachable
	}
	return errLate
}

func onceOf(report agent.Report) onceDocument {
	d := onceDocument{
		Host: report.Host, BytesSent: report.BytesSent, BytesReceived: report.BytesReceived,
		RoundTrips: report.RoundTrips, Seconds: report.Duration.Seconds(),
	}
	for _, s := range report.Sets {
		set := onceSetDocument{
			Set: s.Set, Revision: s.Head.Number, Objects: s.Head.Objects,
			Mode: s.Mode.String(), Upserts: s.Upserts, Deletes: s.Deletes,
		}
		if s.Head.Number > 0 {
			set.Epoch, set.Root = s.Head.Epoch.String(), s.Head.Root.String()
		}
		if s.Err != nil {
			set.Mode, set.Error = modeFailed, s.Err.Error()
		}
		d.Sets = append(d.Sets, set)
	}
	return d
}

func (a *app) printOnce(d onceDocument) error {
	if a.output == "json" {
		return a.document(d)
	}
	for _, s := range d.Sets {
		if s.Error != "" {
			continue // the error is the command's
		}
		_, err := fmt.Fprintf(a.Out, "%s is at revision %d, %s (%s, %s): %s, root %s\n", s.Set, s.Revision, s.Mode,
			counted(s.Upserts, "upsert"), counted(s.Deletes, "delete"), counted(s.Objects, "object"), s.Root)
		if err != nil {
			return err
		}
	}
	if c := d.Applying; c != nil {
		if _, err := fmt.Fprintf(a.Out, "applied %s: %s\n", counted(d.Applied, "object"), applyingText(c)); err != nil {
			return err
		}
		if err := a.printFailed(c); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(a.Out, "sent %s, received %s in %s and %.3f s\n",
		size(d.BytesSent), size(d.BytesReceived), counted(uint64(d.RoundTrips), "round trip"), d.Seconds)
	return err
}
