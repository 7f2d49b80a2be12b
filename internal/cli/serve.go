package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"espalier/internal/audit"
	"espalier/internal/pace"
	"espalier/server"
	"espalier/store"
)

func (a *app) serveCommand() *cobra.Command {
	var data, listen, watch string
	var t trustFlags
	var o server.Options
	c := &cobra.Command{
		Use:   "serve --data DIR",
		Short: "Run the orchestrator",
		Args:  exactArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkAddress(listen, t.insecure); err != nil {
				return err
			}
			if err := t.check(); err != nil {
				return err
			}
			if err := checkPace(o); err != nil {
				return err
			}
			if watch != "" {
				if _, _, err := net.SplitHostPort(watch); err != nil {
					return misusef("--http %q: want host:port", watch)
				}
			}
			return a.serve(c.Context(), data, listen, watch, o, t)
		},
	}
	c.Flags().StringVar(&data, "data", "", "folder that holds the sets; made if need be")
	c.Flags().StringVar(&listen, "listen", defaultServer, "address to listen on")
	c.Flags().StringVar(&watch, "http", "", "address for /metrics, in Prometheus's format, and /healthz, without TLS; empty: none")
	t.addFlags(c)
	paceFlags(c, &o)
	required(c, "data")
	return c
}

// paceFlags adds the flags that say what hosts may take of the server.
func paceFlags(c *cobra.Command, o *server.Options) {
	f, l := c.Flags(), &o.Limits
	f.DurationVar(&o.Objective, "objective", pace.DefaultObjective, "longest that a change shall wait for a host to notice it, as long as --poll-budget holds")
	f.Float64Var(&l.PollBudget, "poll-budget", pace.DefaultBudget, "polls a second that hosts are asked for, in the long run")
	f.Float64Var(&l.PollRate, "poll-rate", server.DefaultPollRate, "polls a second that are answered; others are told when to retry")
	f.IntVar(&l.MaxHeld, "max-held", server.DefaultMaxHeld, "polls that wait at a time for something to change; 0: none")
	f.IntVar(&l.MaxPulls, "max-pulls", server.DefaultMaxPulls, "pulls of hosts that are under way at a time")
	f.IntVar(&l.Bytes, "bytes-per-second", 0, "sent to all hosts that pull; 0: any number")
	f.IntVar(&l.HostBytes, "host-bytes-per-second", 0, "sent to one host that pulls; 0: any number")
}

// checkPace refuses flags that package server would take for their defaults.
func checkPace(o server.Options) error {
	l := o.Limits
	switch {
	case o.Objective < pace.MinHint || o.Objective > pace.MaxHint:
		return misusef("--objective %v: want a time from %v to %v", o.Objective, pace.MinHint, pace.MaxHint)
	case !(l.PollBudget > 0):
		return misusef("--poll-budget %v: want a number above 0", l.PollBudget)
	case !(l.PollRate >= 1):
		return misusef("--poll-rate %v: want 1 or more", l.PollRate)
	case l.MaxHeld < 0:
		return misusef("--max-held %d: want 0 or more", l.MaxHeld)
	case l.Bytes < 0 || l.HostBytes < 0:
		return misusef("--bytes-per-second and --host-bytes-per-second can't be less than 0")
	}
	return atLeastOne("max-pulls", l.MaxPulls)
}

// required makes flags mandatory. Naming one that does not exist is a mistake in
// this program.
func required(c *cobra.Command, flags ...string) {
	for _, flag := range flags {
		if err := c.MarkFlagRequired(flag); err != nil {
			panic(err)
		}
	}
}

func (a *app) serve(ctx context.Context, data, listen, watch string, o server.Options, t trustFlags) error {
	log := a.logger()
	o.Logger, o.ScratchDir = log, data
	trust, err := t.read() // before anything is made
	if err != nil {
		return err
	}
	s, err := store.Open(data, store.Options{Logger: log, Probe: probe})
	if err != nil {
		return err
	}
	record, err := audit.Open(filepath.Join(data, auditFile))
	if err != nil {
		return errors.Join(err, s.Close())
	}
	var admin *machineAdmin
	if trust == nil && !t.insecure {
		if trust, admin, err = t.sign(data, len(s.Heads()) == 0 && record.Last() == 0); err != nil {
			return errors.Join(err, record.Close(), s.Close())
		}
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return errors.Join(fmt.Errorf("listen: %w", err), record.Close(), s.Close())
	}
	watched, err := a.watched(watch, &o)
	if err != nil {
		return errors.Join(err, l.Close(), record.Close(), s.Close())
	}
	heads := s.Heads()
	quarantined := 0 // of which the store has told
	for _, h := range heads {
		if h.Err != nil {
			quarantined++
		}
	}
	log.Info("serving", "address", l.Addr(), "data", data, "sets", len(heads), "quarantined", quarantined, "tls", trust != nil)
	if admin != nil {
		log.Info("these credentials may do everything: name them with --identity or ESPALIER_IDENTITY", "file", admin.path)
	}
	o.Trust, o.Audit = trust, record
	if o.Limits.MaxHeld == 0 {
		o.Limits.MaxHeld = -1
	}
	systemd, watchers := service{log}, o.Ready
	o.Ready = func() {
		if watchers != nil {
			watchers()
		}
		systemd.ready()
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return systemd.watch(ctx, answers(s)) })
	group.Go(func() error { return server.New(s, o).Run(ctx, l) })
	group.Go(func() error { return admin.keep(ctx, log) })
	group.Go(func() error { return watched(ctx) })
	err = group.Wait()
	log.Info("stopped")
	return errors.Join(err, record.Close(), s.Close())
}

// answers returns what waits for as long as polls would wait for the store.
func answers(s *store.Store) (alive func() bool) {
	return func() bool {
		_, _ = s.Head("")
		return true
	}
}
