package cli

import (
	"context"
	"errors"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"espalier/agent"
	"espalier/internal/config"
	"espalier/internal/onhost"
)

// agentRun is a run of the command agent.
type agentRun struct {
	*app
	options agent.Options
	config  *config.Config
	file    string // that the configuration is from; empty: there is none
	reread  func() (*config.Config, error)
	check   bool
	dryRun  bool
	timeout time.Duration // 0: none
}

// open opens the agent, checks what it holds if that is asked for, and gives it the
// drivers of its configuration, which keep things in the folder that is its own by
// then.
func (r *agentRun) open(ctx context.Context) (*agent.Agent, error) {
	g, err := agent.Open(r.options)
	if err != nil {
		return nil, err
	}
	if r.check {
		damaged, err := g.Check(ctx)
		if err != nil {
			return nil, errors.Join(err, g.Close())
		}
		if damaged > 0 {
			r.options.Logger.Warn("what is mirrored is damaged; it will be fetched again", "rows", damaged)
		}
	}
	drivers, err := routes(r.config, r.options.Host, r.options.Logger)
	if err == nil {
		err = g.Configure(drivers, r.config.Policy)
	}
	if err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

// follow keeps the mirrors current, and the host matching them, until ctx is done.
// SIGHUP has it read its file again.
func (r *agentRun) follow(ctx context.Context) error {
	hangups := make(chan struct{}, 1)
	if r.file != "" {
		defer r.onHangup(hangups)()
	}
	g, err := r.open(ctx)
	if err != nil {
		return err
	}
	log, systemd := r.options.Logger, service{r.options.Logger}
	log.Info("following", "host", r.options.Host, "server", r.options.Server, "drivers", len(r.config.Routes))
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return g.Run(ctx) })
	group.Go(func() error { return onhost.Serve(ctx, r.options.Dir, r.options.Host, g) })
	group.Go(func() error { return systemd.watch(ctx, func() bool { g.Convergence(); return true }) })
	group.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-hangups:
				systemd.reloading()
				r.reload(g)
				systemd.ready()
			}
		}
	})
	systemd.ready()
	err = group.Wait()
	log.Info("stopped")
	return errors.Join(err, g.Close())
}

// reload reads the file again, and has the agent take over what it can. What is
// wrong in it changes nothing.
func (r *agentRun) reload(g *agent.Agent) {
	log := r.options.Logger
	next, err := r.reread()
	if err != nil {
		log.Error("the configuration stays as it was", "file", r.file, "error", err)
		return
	}
	changes := config.Compare(r.config, next)
	if len(changes.Restart) > 0 {
		log.Warn("some of the configuration takes effect once the agent is started anew", "file", r.file, "fields", strings.Join(changes.Restart, ", "))
	}
	if len(changes.Now) == 0 {
		log.Info("nothing has changed in the configuration that could take effect now", "file", r.file)
		return
	}
	next.Settings = r.config.Settings
	drivers, err := routes(next, r.options.Host, log)
	if err == nil {
		err = g.Configure(drivers, next.Policy)
	}
	if errors.Is(err, agent.ErrNoDrivers) {
		err = errors.New("the agent began without drivers: start it anew for these")
	}
	if err != nil {
		log.Error("the configuration stays as it was", "file", r.file, "error", err)
		return
	}
	r.config = next
	log.Info("the configuration has been read again", "file", r.file, "changed", strings.Join(changes.Now, ", "))
}
