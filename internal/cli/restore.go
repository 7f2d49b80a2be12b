package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os/user"

	"github.com/spf13/cobra"

	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/internal/wire"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/store"
)

// restoreFlags are what a restore is told.
type restoreFlags struct {
	from, expect, maxDelete string
	dryRun                  bool
	why                     string
}

func (a *app) restoreCommand() *cobra.Command {
	var flags restoreFlags
	c := &cobra.Command{
		Use:   "restore SET FILE",
		Short: "Make a set what a backup holds, in a new epoch that agents follow",
		Long: "Make a set what a backup holds, in a new epoch that agents follow. What the set holds and the\n" +
			"backup doesn't is deleted, on the hosts as well; a guard holds back a restore that would delete too\n" +
			"much. If the set is damaged so that nobody can tell, --max-delete 100% restores it all the same.",
		Args: exactArgs("SET", "FILE"),
	}
	f := c.Flags()
	f.StringVar(&flags.from, "from", "", "the set that the backup is of, if that is another one")
	f.BoolVar(&flags.dryRun, "dry-run", false, "say what would be done, and do nothing")
	f.StringVar(&flags.maxDelete, "max-delete", "10%", "most objects to delete: a number, or a percentage of those in the set (at least 10)")
	f.StringVar(&flags.expect, "expect", "", "refuse unless the set is at this revision: a number, or epoch:number; 0: it must not exist")
	f.StringVarP(&flags.why, "message", "m", "", "why, for the set's history")
	online := func(ctx context.Context, name desired.Name, args []string) error {
		if err := a.remote.check(); err != nil { // before what may take long
			return err
		}
		return a.restore(ctx, name, args[1], flags, func(f *store.File, r store.Restore) (store.Restored, error) {
			return a.restoreOnline(ctx, name, f, r)
		})
	}
	offline := func(ctx context.Context, s *store.Store, name desired.Name, args []string) error {
		return a.restore(ctx, name, args[1], flags, func(f *store.File, r store.Restore) (store.Restored, error) {
			r.Who = me()
			return s.RestoreFile(ctx, name, f, r)
		})
	}
	return a.maintenance(c, online, offline)
}

// me returns who runs this program, as far as the system knows.
func me() string {
	u, err := user.Current()
	if err != nil {
		return ""
	}
	return u.Username
}

// parseExpect reads the revision that a set is expected to be at, nil for any.
func parseExpect(s string) (*desired.Position, error) {
	if s == "" {
		return nil, nil
	}
	p, err := desired.ParsePosition(s)
	if err != nil {
		return nil, misuse{fmt.Errorf("--expect: %w", err)}
	}
	return &p, nil
}

// terms returns what the flags ask for.
func (flags restoreFlags) terms() (r store.Restore, err error) {
	r.DryRun, r.Why = flags.dryRun, flags.why
	if r.Expect, err = parseExpect(flags.expect); err != nil {
		return r, err
	}
	r.MaxDelete, err = parseMaxDelete(flags.maxDelete)
	return r, err
}

// restore hands the backup at path to the function that restores it, once it is
// checked.
func (a *app) restore(ctx context.Context, name desired.Name, path string, flags restoreFlags,
	to func(*store.File, store.Restore) (store.Restored, error),
) error {
	r, err := flags.terms()
	if err != nil {
		return err
	}
	if err := probe(ctx, path); err != nil {
		return err
	}
	f, err := store.OpenFile(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := a.checkBackup(ctx, f, path, name, desired.Name(flags.from)); err != nil {
		return err
	}
	r.Why = cmp.Or(r.Why, fmt.Sprintf("restored %s at revision %d", f.Name(), f.Head().Number))
	restored, err := to(f, r)
	if err != nil {
		return guardHint(err)
	}
	return a.printRestored(name, f, restored, flags.dryRun)
}

// checkBackup returns nil if f, at path, can be restored to the set: it must be
// a sound backup of that set, or of the one it is said to come from.
func (a *app) checkBackup(ctx context.Context, f *store.File, path string, set, from desired.Name) error {
	if of, want := f.Name(), cmp.Or(from, set); of != want {
		return refused{fmt.Errorf("%s is a backup of set %s, not of %s; nothing was restored; pass --from %s to restore it to set %s all the same",
			path, of, want, of, set)}
	}
	bar := a.progress("checking")
	report, err := f.Check(ctx, bar.Update)
	bar.Finish()
	if err == nil && report.Found > 0 {
		err = fmt.Errorf("%w: %s: %d rows disagree, the first: %s; nothing was restored",
			store.ErrCorrupt, path, report.Found, report.Problems[0])
	}
	return err
}

// revisionDocument is a revision for programs.
type revisionDocument struct {
	Set      desired.Name `json:"set"`
	Epoch    string       `json:"epoch"`
	Revision uint64       `json:"revision"`
}

// restoreDocument is the outcome of a restore for programs. In a dry run its
// head is that of the set as it is.
type restoreDocument struct {
	headDocument
	Created   uint64            `json:"created"`
	Updated   uint64            `json:"updated"`
	Deleted   uint64            `json:"deleted"`
	Unchanged uint64            `json:"unchanged"`
	Backup    revisionDocument  `json:"backup"`
	Replaced  *revisionDocument `json:"replaced"` // null: there was no set, or it can't be read
	Damage    string            `json:"damage,omitempty"`
	DryRun    bool              `json:"dry_run"`
}

func revisionOf(set desired.Name, p desired.Position) revisionDocument {
	return revisionDocument{Set: set, Epoch: p.Epoch.String(), Revision: p.Number}
}

// printRestored ends with an error if a guard would have held a dry run back.
func (a *app) printRestored(name desired.Name, f *store.File, r store.Restored, dry bool) error {
	d := restoreDocument{
		headDocument: headOf(name, r.Head), Backup: revisionOf(f.Name(), f.Head().Position), DryRun: dry,
		Created: r.Created, Updated: r.Updated, Deleted: r.Deleted, Unchanged: r.Unchanged,
	}
	if dry {
		d.headDocument = headOf(name, r.Replaced)
	}
	if !r.Replaced.Epoch.IsZero() {
		replaced := revisionOf(name, r.Replaced.Position)
		d.Replaced = &replaced
	}
	if r.Damage != nil {
		d.Damage = r.Damage.Error()
	}
	var err error
	if a.output == "json" {
		err = a.document(d)
	} else {
		err = a.sayRestored(d, f.Head())
	}
	if err == nil && r.Refused != nil {
		err = guardHint(r.Refused)
	}
	return err
}

func (a *app) sayRestored(d restoreDocument, holds desired.Head) error {
	counts := fmt.Sprintf("%s created, %s updated, %s deleted; %s unchanged",
		grouped(d.Created), grouped(d.Updated), grouped(d.Deleted), grouped(d.Unchanged))
	if d.Damage != "" {
		counts = "what it held before is damaged, and can't be counted"
	}
	if !d.DryRun {
		_, err := fmt.Fprintf(a.Out, "restored %s at revision %d: %s, root %s; %s\n",
			d.Set, d.Revision, counted(d.Objects, "object"), d.Root, counts)
		return err
	}
	now := "which can't be read"
	switch {
	case d.Replaced != nil:
		now = fmt.Sprintf("now at revision %d", d.Replaced.Revision)
	case d.Damage == "":
		now = "which doesn't exist"
	}
	_, err := fmt.Fprintf(a.Out, "dry run: %s, %s, would become %s as of revision %d, %s: %s\n",
		d.Set, now, d.Backup.Set, d.Backup.Revision, counted(holds.Objects, "object"), counts)
	return err
}

func (a *app) restoreOnline(ctx context.Context, name desired.Name, f *store.File, r store.Restore) (restored store.Restored, err error) {
	r.From = f.Origin()
	err = a.remote.operate(func(client espalierv1.OperatorServiceClient) error {
		stream, err := client.Commit(ctx)
		if err != nil {
			return wire.FromStatus(err)
		}
		err = f.View(func(s *store.Snapshot) error { return sendObjects(stream, s, wire.RestoreToWire(name, r)) })
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		resp, err := stream.CloseAndRecv()
		if err != nil {
			return wire.FromStatus(err)
		}
		if restored, err = wire.RestoredFromWire(resp); err == nil && !r.DryRun && restored.Head.Epoch.IsZero() {
			err = fmt.Errorf("%w: a restore without a head", delta.ErrProtocol)
		}
		return err
	})
	return restored, err
}

// sendObjects sends all objects of a snapshot. An io.EOF means that the server
// has ended the stream, and will say why.
func sendObjects(stream espalierv1.OperatorService_CommitClient, s *store.Snapshot, terms *espalierv1.CommitTerms) error {
	frames := delta.NewFrameWriter(delta.NewCodec())
	req := &espalierv1.CommitRequest{Terms: terms}
	flush := func() error {
		req.Frame = frames.Frame()
		err := stream.Send(req)
		req = &espalierv1.CommitRequest{}
		return err
	}
	for c, err := range s.Objects(nil, nil) {
		if err != nil {
			return err
		}
		if err := frames.Add(c); err != nil {
			return err
		}
		if frames.Full() {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}
