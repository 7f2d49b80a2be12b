package cli

import (
	"context"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// service tells systemd, if that started the program, how it does; else it does
// nothing.
type service struct{ log *slog.Logger }

// ready tells that the program does what it is for, or does so again.
func (s service) ready() { s.tell(daemon.SdNotifyReady) }

// reloading tells that the program reads its configuration again; ready follows.
func (s service) reloading() {
	s.tell(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec())
}

// stopping tells that the program is about to end.
func (s service) stopping() { s.tell(daemon.SdNotifyStopping) }

// watch tells that the program is alive, as long as alive says so, at half of the
// interval after which systemd takes it for dead; and once ctx is done, that it
// is stopping. If alive doesn't return, nothing is told either.
func (s service) watch(ctx context.Context, alive func() bool) error {
	defer s.stopping()
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		s.log.Warn("systemd's watchdog is not served", "error", err)
	}
	if interval <= 1 {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(interval / 2)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if alive() {
			s.tell(daemon.SdNotifyWatchdog)
		} else {
			s.log.Error("the program does not get ahead: systemd is not told that it is alive", "restart_after", interval)
		}
	}
}

func (s service) tell(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		s.log.Warn("systemd was not told", "state", state, "error", err)
	}
}
