package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"espalier/internal/desired"
	"espalier/internal/publish"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/store"
)

func (a *app) applyCommand() *cobra.Command {
	var path, prefix, expect, maxDelete string
	var o publish.Options
	c := &cobra.Command{
		Use:   "apply SET -f PATH|-",
		Short: "Make a set hold what a file or folder says",
		Long: "Make a set hold what a file or folder says. PATH is a file of JSON lines, such as\n\n" +
			`  {"key":"web/motd","value":"hello"}` + "\n" +
			`  {"key":"web/logo","value_base64":"iVBORw0KGgo=","attributes":{"mode":"0644"},"after":["web/motd"]}` + "\n\n" +
			"or a folder, each file of which is an object, or - for JSON lines on standard input.\n" +
			"Objects are created and updated. With --prune, what is under the prefix and not in the input\n" +
			"is deleted as well; a guard holds back a commit that would delete too much.",
		Args: exactArgs("SET"),
		RunE: func(c *cobra.Command, args []string) error {
			var err error
			if o.Set, err = setName(args[0]); err != nil {
				return err
			}
			if expect != "" {
				p, err := desired.ParsePosition(expect)
				if err != nil {
					return misuse{fmt.Errorf("--expect: %w", err)}
				}
				o.Expect = &p
			}
			if o.MaxDelete, err = parseMaxDelete(maxDelete); err != nil {
				return err
			}
			return a.apply(c.Context(), path, prefix, o)
		},
	}
	f := c.Flags()
	f.StringVarP(&path, "file", "f", "", "JSON lines, or a folder; -: JSON lines from standard input")
	f.BoolVar(&o.Prune, "prune", false, "delete what is under the prefix and not in the input")
	f.BoolVar(&o.DryRun, "dry-run", false, "say what would be done, and do nothing")
	f.StringVar(&prefix, "key-prefix", "", "put this before every key; end it in a slash where it stands for a folder")
	f.StringVar(&maxDelete, "max-delete", "10%", "most objects to delete: a number, or a percentage of those under the prefix (at least 10)")
	f.StringVar(&expect, "expect", "", "refuse unless the set is at this revision: a number, or epoch:number; 0: it must not exist")
	f.StringVarP(&o.Why, "message", "m", "", "why, for the set's history")
	a.remote.addFlags(c)
	required(c, "file")
	return c
}

// parseMaxDelete reads a guard. A percentage allows ten deletions in any case,
// except that 0% allows none.
func parseMaxDelete(s string) (*store.DeleteLimit, error) {
	if percent, ok := strings.CutSuffix(s, "%"); ok {
		p, err := strconv.ParseFloat(percent, 64)
		if err != nil || math.IsNaN(p) || p < 0 || p > 100 {
			return nil, misusef("--max-delete %q: want a percentage from 0%% to 100%%", s)
		}
		if p == 0 {
			return &store.DeleteLimit{}, nil
		}
		return &store.DeleteLimit{Count: publish.DefaultMaxDelete.Count, Percent: p}, nil
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return nil, misusef("--max-delete %q: want a number, or a percentage such as 10%%", s)
	}
	return &store.DeleteLimit{Count: n}, nil
}

func (a *app) apply(ctx context.Context, path, prefix string, o publish.Options) (err error) {
	if err := a.remote.check(); err != nil { // before what may take long
		return err
	}
	bars := bars{a: a}
	defer bars.finish()
	in, err := publish.Read(ctx, path, a.In, publish.ReadOptions{KeyPrefix: prefix, Progress: bars.update})
	if err != nil {
		return err
	}
	defer in.Close()
	conn, err := a.remote.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := settle(ctx, conn); err != nil {
		return err
	}
	o.Progress, o.Logger = bars.update, slog.New(slog.NewTextHandler(&bars, nil))
	plan := bufio.NewWriter(a.Out)
	if o.DryRun && a.output != "json" {
		o.Each = func(action publish.Action, key []byte) error {
			bars.finish()
			_, err := fmt.Fprintf(plan, "%s %s\n", action, key)
			return err
		}
	}
	s := publish.Server{Operator: espalierv1.NewOperatorServiceClient(conn), Sync: espalierv1.NewSyncServiceClient(conn)}
	r, err := publish.Apply(ctx, s, in, o)
	bars.finish()
	if err = errors.Join(plan.Flush(), err); err != nil {
		return guardHint(err)
	}
	d := commitDocument{
		Set: o.Set, Epoch: r.Head.Epoch.String(), Revision: r.Head.Number, Root: r.Head.Root.String(), Objects: r.Head.Objects,
		Created: r.Created, Updated: r.Updated, Deleted: r.Deleted, Unchanged: r.Unchanged, DryRun: o.DryRun,
	}
	switch {
	case a.output == "json":
		return a.document(d)
	case o.DryRun:
		_, err = fmt.Fprintf(a.Err, "dry run: %s would be created, %s updated, %s deleted; %s unchanged\n",
			grouped(d.Created), grouped(d.Updated), grouped(d.Deleted), grouped(d.Unchanged))
		return err
	default:
		return a.sayCommit(d)
	}
}

// guardHint says how to go on where the guard held a commit back.
func guardHint(err error) error {
	if errors.Is(err, store.ErrTooManyDeletes) {
		return fmt.Errorf("%w; nothing was changed; look with --dry-run, and raise --max-delete if that is what you want", err)
	}
	return err
}

// bars shows one progress bar after another, one for each phase.
type bars struct {
	a     *app
	phase publish.Phase
	bar   *progress
}

func (b *bars) update(phase publish.Phase, done, total uint64) {
	if b.bar == nil || phase != b.phase {
		b.finish()
		b.phase, b.bar = phase, b.a.progress(string(phase)).in(phase.Unit())
	}
	b.bar.Update(done, total)
}

// Write writes to standard error, out of the way of a bar.
func (b *bars) Write(text []byte) (int, error) {
	b.finish()
	return b.a.Err.Write(text)
}

func (b *bars) finish() {
	if b.bar != nil {
		b.bar.Finish()
		b.bar = nil
	}
}
