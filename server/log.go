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
	_ = s.note(ctx, audit.Record{What: call, On: string(set), Epoch: epochOf(head), Revision: head.Number, Why: why}, err)
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
	err := handler(server, stream)
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
	if r.Level >= slog.LevelWarn && !h.said.first(h.context+textOf(r), r.Time) {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

func (h sparse) WithAttrs(attrs []slog.Attr) slog.Handler {
	return sparse{h.Handler.WithAttrs(attrs), h.context + fmt.Sprint(attrs), h.said}
}

func (h sparse) WithGroup(name string) slog.Handler {
	return sparse{h.Handler.WithGroup(name), h.context + name, h.said}
}

// textOf returns all that a record says but when.
func textOf(r slog.Record) string {
	var b strings.Builder
	b.WriteString(r.Message)
	r.Attrs(func(a slog.Attr) bool {
		fmt.Fprintf(&b, " %s", a)
		return true
	})
	return b.String()
}

// said remembers what was said of late.
type said struct {
	mu    sync.Mutex
	seed  maphash.Seed
	until map[uint64]time.Time // by the text's hash: when it may be said again
}

func newSaid() *said { return &said{seed: maphash.MakeSeed(), until: map[uint64]time.Time{}} }

// first reports whether there is room to say text, and it was not said of late.
func (s *said) first(text string, now time.Time) bool {
	key := maphash.String(s.seed, text)
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Before(s.until[key]) {
		return false
	}
	if len(s.until) >= MaxWarnings {
		maps.DeleteFunc(s.until, func(_ uint64, until time.Time) bool { return !now.Before(until) })
		if len(s.until) >= MaxWarnings {
			return false
		}
	}
	s.until[key] = now.Add(QuietTime)
	return true
}
