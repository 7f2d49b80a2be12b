package server

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"maps"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"espalier/internal/audit"
	"espalier/internal/desired"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/store"
)

// What the log says of a set, it says in these fields: set, epoch, revision,
// who, why, error.

// logChange says in one line how a call that changes a set ended, and what head
// the set has, or had, and records it.
func (s *Server) logChange(ctx context.Context, call string, set desired.Name, why string, head desired.Head, err error, more ...any) {
	why = why[:min(len(why), store.MaxWhyBytes)] // more is refused, but logged
	s.metrics.changes.WithLabelValues(call, outcome(err, "done", "refused")).Inc()
	if err == nil || s.firstRefused(ctx, call, set, err) {
		_ = s.note(ctx, audit.Record{What: call, On: string(set), Epoch: epochOf(head), Revision: head.Number, Why: why}, err)
	}
	switch {
	case err == nil:
		args := []any{"set", set, "epoch", head.Epoch.String(), "revision", head.Number, "who", who(ctx), "why", why}
		s.log.Info(call, append(args, more...)...)
	case errors.Is(err, store.ErrConflict): // others were first; who tries again finds out
		s.log.Debug(call+" refused", "set", set, "who", who(ctx), "error", err)
	case ctx.Err() == nil: // or the caller gave up
		s.log.Warn(call+" refused", "set", set, "who", who(ctx), "why", why, "error", err)
	}
}

// Fork implements lead.Sets. It records the first time that a host holds another
// history of a set: it has stopped the set's writers by it.
func (s sets) Fork(ctx context.Context, set desired.Name, p desired.Position) error {
	news, err := s.Store.Fork(ctx, set, p)
	if news {
		s.server.log.Error("a host holds another history of a set, and stops its writers", "set", set, "who", who(ctx), "held", p.Number)
		head, _ := s.Head(set) // zero if it is gone by now
		_ = s.server.note(ctx, audit.Record{
			What: "fork", On: string(set), Epoch: epochOf(head), Revision: head.Number,
			Why: fmt.Sprintf("a host holds a revision %d that is not in its history: commits are refused until an epoch begins", p.Number),
		}, nil)
	}
	return err
}

// firstRefused reports whether to record that a change of a set was refused: once
// in QuietTime for each kind, since who loops can repeat it at will.
func (s *Server) firstRefused(ctx context.Context, call string, set desired.Name, err error) bool {
	kind := "refused"
	if errors.Is(err, store.ErrConflict) {
		kind = "conflict"
	}
	return s.denied.first(who(ctx), strings.Join([]string{addressOf(ctx), call, string(set), kind}, " "), time.Now())
}

func epochOf(head desired.Head) string {
	if head.Epoch.IsZero() {
		return ""
	}
	return head.Epoch.String()
}

// who returns who makes a call: the bearer of the certificate or, without TLS,
// the address of the machine.
func who(ctx context.Context) string {
	if c := callerOf(ctx); !c.IsZero() {
		return c.String()
	}
	return addressOf(ctx)
}

// addressOf returns the address of the machine that a call comes from.
func addressOf(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return ""
	}
	host, _, err := net.SplitHostPort(p.Addr.String())
	if err != nil {
		return p.Addr.String()
	}
	return host
}

// logPoll says which polls are refused.
func (s *Server) logPoll(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	resp, err := handler(ctx, req)
	if err != nil && info.FullMethod == espalierv1.SyncService_Poll_FullMethodName {
		s.metrics.polls.WithLabelValues("failed").Inc()
		s.logRefused(ctx, "poll refused", err)
	}
	return resp, err
}

// logUnknown says that a poll asks for a set that the caller doesn't get.
func (s *Server) logUnknown(ctx context.Context, set desired.Name) {
	if c := callerOf(ctx); !c.mayUse(set) {
		s.logDenied(ctx, c, espalierv1.SyncService_Poll_FullMethodName, errForeign(string(set)))
	} else {
		s.log.Warn("an agent asks for a set that doesn't exist", "set", set, "who", who(ctx))
	}
}

// logPull says which pulls end in an error of the server's.
func (s *Server) logPull(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	began := time.Now()
	err := handler(server, stream)
	if info.FullMethod == espalierv1.SyncService_Pull_FullMethodName {
		s.metrics.pulls.WithLabelValues(outcome(err, "done", "failed")).Inc()
		s.metrics.pullTime.Observe(time.Since(began).Seconds())
	}
	if err != nil && !errors.Is(err, errDenied) && info.FullMethod == espalierv1.SyncService_Pull_FullMethodName {
		s.logRefused(stream.Context(), "pull refused", err)
	}
	return err
}

func (s *Server) logRefused(ctx context.Context, message string, err error) {
	if code := status.Code(err); code != codes.Canceled && code != codes.Unavailable && ctx.Err() == nil { // a connection that broke is none
		s.log.Warn(message, "who", who(ctx), "error", status.Convert(err).Message())
	}
}

// sparse is a handler that says a warning or error once in QuietTime, and no
// more than MaxWarnings different ones: peers repeat themselves.
type sparse struct {
	slog.Handler
	context string // what WithAttrs and WithGroup added
	said    *said
}

// newSparse returns a logger that says what l does, but sparsely.
func newSparse(l *slog.Logger) *slog.Logger {
	return slog.New(sparse{Handler: l.Handler(), said: newSaid()})
}

func (h sparse) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelWarn {
		if who, text := textOf(r); !h.said.first(who, h.context+text, r.Time) {
			return nil
		}
	}
	return h.Handler.Handle(ctx, r)
}

func (h sparse) WithAttrs(attrs []slog.Attr) slog.Handler {
	return sparse{h.Handler.WithAttrs(attrs), h.context + fmt.Sprint(attrs), h.said}
}

func (h sparse) WithGroup(name string) slog.Handler {
	return sparse{h.Handler.WithGroup(name), h.context + name, h.said}
}

// textOf returns all that a record says but when, and who it is about; "": nobody.
func textOf(r slog.Record) (who, text string) {
	var b strings.Builder
	b.WriteString(r.Message)
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "who" {
			who = a.Value.String()
		}
		fmt.Fprintf(&b, " %s", a)
		return true
	})
	return who, b.String()
}

// said remembers what was said of late.
type said struct {
	mu   sync.Mutex
	seed maphash.Seed
	all  int
	// until is, by who it is about and the text's hash, when it may be said
	// again.
	until map[string]map[uint64]time.Time
}

func newSaid() *said {
	return &said{seed: maphash.MakeSeed(), until: map[string]map[uint64]time.Time{}}
}

// first reports whether there is room to say text of who, and it was not said of
// late.
func (s *said) first(who, text string, now time.Time) bool {
	key := maphash.String(s.seed, text)
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Before(s.until[who][key]) {
		return false
	}
	if s.full(who) {
		s.forget(now)
		if s.full(who) {
			return false
		}
	}
	if s.until[who] == nil {
		s.until[who] = map[uint64]time.Time{}
	}
	if _, ok := s.until[who][key]; !ok {
		s.all++
	}
	s.until[who][key] = now.Add(QuietTime)
	return true
}

// full reports whether no more can be said of who, or at all. What is about nobody
// is the server's own.
func (s *said) full(who string) bool {
	return s.all >= MaxWarnings || who != "" && len(s.until[who]) >= MaxWarningsEach
}

// forget drops what may be said again.
func (s *said) forget(now time.Time) {
	s.all = 0
	for who, theirs := range s.until {
		maps.DeleteFunc(theirs, func(_ uint64, until time.Time) bool { return !now.Before(until) })
		if s.all += len(theirs); len(theirs) == 0 {
			delete(s.until, who)
		}
	}
}
