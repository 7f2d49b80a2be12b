package sim

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
)

// story is what happened in a world, for people. It costs more than the world, so
// it is told only when asked for.
type story struct{ lines []string }

// say adds to the story.
func (w *World) say(who any, format string, args ...any) {
	if w.story == nil {
		return
	}
	w.story.lines = append(w.story.lines, fmt.Sprintf("%12.3fs  %-8v %s", w.now.Seconds(), who,
		strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", "; ")))
}

// logger returns what a machine's logger writes to: the story, or nothing.
func (w *World) logger(who string) *slog.Logger {
	if w.story == nil {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(teller{world: w, who: who})
}

// teller is a slog.Handler that tells the story.
type teller struct {
	world *World
	who   string
}

func (teller) Enabled(context.Context, slog.Level) bool { return true }
func (t teller) WithAttrs([]slog.Attr) slog.Handler     { return t }
func (t teller) WithGroup(string) slog.Handler          { return t }
func (t teller) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteString(r.Message)
	r.Attrs(func(a slog.Attr) bool {
		fmt.Fprintf(&b, " %s=%v", a.Key, a.Value)
		return true
	})
	t.world.say(t.who, "%s", &b)
	return nil
}
