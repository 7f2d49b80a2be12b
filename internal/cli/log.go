package cli

import (
	"context"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"espalier/internal/desired"
	"espalier/internal/wire"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/store"
)

func (a *app) logCommand() *cobra.Command {
	var limit uint64
	c := &cobra.Command{
		Use:   "log SET",
		Short: "Show what became of a set: when, by whom, why",
		Args:  exactArgs("SET"),
	}
	c.Flags().Uint64Var(&limit, "limit", 20, "the most revisions to show, from the latest back; 0: all that the journal still has")
	online := func(ctx context.Context, name desired.Name, _ []string) error {
		return a.printLog(name, func(yield func(store.LogEntry) error) error { return a.logOnline(ctx, name, limit, yield) })
	}
	offline := func(_ context.Context, s *store.Store, name desired.Name, _ []string) error {
		return a.printLog(name, func(yield func(store.LogEntry) error) error {
			return s.View(name, func(snap *store.Snapshot) error {
				shown := uint64(0)
				for e, err := range snap.Log(0) {
					if err != nil {
						return err
					}
					if err := yield(e); err != nil {
						return err
					}
					if shown++; shown == limit {
						break
					}
				}
				return nil
			})
		})
	}
	return a.maintenance(c, online, offline)
}

func (a *app) logOnline(ctx context.Context, name desired.Name, limit uint64, yield func(store.LogEntry) error) error {
	return a.remote.operate(func(client espalierv1.OperatorServiceClient) error {
		stream, err := client.Log(ctx, &espalierv1.LogRequest{Set: string(name), Limit: limit})
		if err != nil {
			return wire.FromStatus(err)
		}
		return eachMessage(stream, func(resp *espalierv1.LogResponse) error {
			for _, m := range resp.GetEntries() {
				e, err := wire.LogEntryFromWire(m)
				if err != nil {
					return err
				}
				if err := yield(e); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// logDocument is a revision's line in the log for programs.
type logDocument struct {
	revisionDocument
	Root string    `json:"root"`
	Time time.Time `json:"time"`
	Who  string    `json:"who"`
	Why  string    `json:"why"`
	Keys *uint64   `json:"keys"` // null: not known any more
}

// printLog prints what each hands on.
func (a *app) printLog(name desired.Name, each func(func(store.LogEntry) error) error) error {
	if a.output == "json" {
		return each(func(e store.LogEntry) error {
			d := logDocument{
				revisionDocument: revisionOf(name, e.Position), Root: e.Root.String(), Time: e.Time.UTC(), Who: e.Who, Why: e.Why,
			}
			if !e.Base {
				d.Keys = &e.Keys
			}
			return a.document(d)
		})
	}
	t := a.table("REVISION", "TIME", "KEYS", "ROOT", "WHO", "WHY")
	numbers(t, 1, 3)
	err := each(func(e store.LogEntry) error {
		keys := "?"
		if !e.Base {
			keys = grouped(e.Keys)
		}
		t.AppendRow(table.Row{e.Number, e.Time.Format(time.DateTime), keys, e.Root.String()[:16], printable(e.Who), printable(e.Why)})
		return nil
	})
	if err != nil {
		return err
	}
	return a.printTable(t)
}
