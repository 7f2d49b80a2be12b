package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"espalier/internal/audit"
	"espalier/server"
	"espalier/store"
)

func (a *app) serveCommand() *cobra.Command {
	var data, listen string
	var interval time.Duration
	var t trustFlags
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
			if interval <= 0 {
				return misusef("--poll-interval %v: want a time above 0", interval)
			}
			return a.serve(c.Context(), data, listen, interval, t)
		},
	}
	c.Flags().StringVar(&data, "data", "", "folder that holds the sets; made if need be")
	c.Flags().StringVar(&listen, "listen", defaultServer, "address to listen on")
	t.addFlags(c)
	c.Flags().DurationVar(&interval, "poll-interval", server.DefaultPollInterval, "what agents are told to wait between polls")
	required(c, "data")
	return c
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

func (a *app) serve(ctx context.Context, data, listen string, interval time.Duration, t trustFlags) error {
	log := a.logger()
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
	o := server.Options{Logger: log, PollInterval: interval, ScratchDir: data, Trust: trust, Audit: record}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return server.New(s, o).Run(ctx, l) })
	group.Go(func() error { return admin.keep(ctx, log) })
	err = group.Wait()
	log.Info("stopped")
	return errors.Join(err, record.Close(), s.Close())
}
