package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"espalier/agent"
	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/internal/wire"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/store"
)

// local is a stopped server's data folder, which a command may work on instead
// of a running server.
type local struct{ data string }

func (l *local) addFlags(c *cobra.Command) {
	c.Flags().StringVar(&l.data, "data", "", "work on a stopped server's data folder instead of a running server")
}

// open calls fn with the store in the folder.
func (l *local) open(a *app, fn func(*store.Store) error) error {
	if _, err := os.Stat(filepath.Join(l.data, "sets")); err != nil {
		return misusef("%s is no data folder of a server: %w", l.data, err)
	}
	s, err := store.Open(l.data, store.Options{Logger: a.logger(), Probe: probe})
	if err != nil {
		return err
	}
	return errors.Join(fn(s), s.Close())
}

// maintenance is a command on one set, over a server or on a folder.
func (a *app) maintenance(c *cobra.Command, online func(context.Context, desired.Name, []string) error,
	offline func(context.Context, *store.Store, desired.Name, []string) error,
) *cobra.Command {
	var l local
	c.RunE = func(c *cobra.Command, args []string) error {
		name, err := setName(args[0])
		if err != nil {
			return err
		}
		if l.data == "" {
			return online(c.Context(), name, args)
		}
		return l.open(a, func(s *store.Store) error { return offline(c.Context(), s, name, args) })
	}
	l.addFlags(c)
	a.remote.addFlags(c)
	return c
}

func (a *app) checkCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "check SET",
		Short: "Recompute a set from its objects, and say which rows disagree",
		Args:  exactArgs("SET"),
	}
	offline := func(ctx context.Context, s *store.Store, name desired.Name, _ []string) error {
		bar := a.progress("checking")
		report, err := s.Check(ctx, name, bar.Update)
		bar.Finish()
		if err != nil {
			return err
		}
		d := checkDocument{headDocument: headOf(name, report.Head), Problems: report.Found, Details: []string{}}
		for _, p := range report.Problems {
			d.Details = append(d.Details, p.Where+": "+p.What)
		}
		return a.printCheck(d)
	}
	return a.maintenance(c, a.checkOnline, offline)
}

func (a *app) checkOnline(ctx context.Context, name desired.Name, _ []string) error {
	return a.remote.operate(func(client espalierv1.OperatorServiceClient) error {
		stream, err := client.Check(ctx, &espalierv1.CheckRequest{Set: string(name)})
		if err != nil {
			return wire.FromStatus(err)
		}
		bar := a.progress("checking")
		defer bar.Finish()
		for {
			resp, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return fmt.Errorf("%w: a check without a report", delta.ErrProtocol)
			}
			if err != nil {
				return wire.FromStatus(err)
			}
			report := resp.GetReport()
			if report == nil {
				bar.Update(resp.GetDone(), resp.GetTotal())
				continue
			}
			bar.Finish()
			head, err := wire.HeadFromWire(report.GetHead())
			if err != nil {
				return err
			}
			return a.printCheck(checkDocument{
				headDocument: headOf(name, head), Problems: report.GetProblems(),
				Details: append([]string{}, report.GetDetails()...),
			})
		}
	})
}

// checkDocument is the outcome of a check for programs.
type checkDocument struct {
	headDocument
	Problems uint64   `json:"problems"`
	Details  []string `json:"details"`
}

// printCheck ends with an error if anything was found.
func (a *app) printCheck(d checkDocument) error {
	say := a.sayCheck
	if a.output == "json" {
		say = func(d checkDocument) error { return a.document(d) }
	}
	if err := say(d); err != nil {
		return err
	}
	if d.Problems > 0 {
		return fmt.Errorf("set %s: %s rows disagree; restore it from a backup, or publish it anew", d.Set, grouped(d.Problems))
	}
	return nil
}

func (a *app) sayCheck(d checkDocument) error {
	var text strings.Builder
	for _, detail := range d.Details {
		fmt.Fprintln(&text, printable(detail))
	}
	if more := d.Problems - uint64(len(d.Details)); more > 0 {
		fmt.Fprintf(&text, "and %s more\n", grouped(more))
	}
	if d.Problems == 0 {
		fmt.Fprintf(&text, "%s is sound at revision %d: %s, root %s\n", d.Set, d.Revision, counted(d.Objects, "object"), d.Root)
	}
	_, err := io.WriteString(a.Out, text.String())
	return err
}

func (a *app) compactCommand() *cobra.Command {
	var o store.CompactOptions
	c := &cobra.Command{
		Use:   "compact SET",
		Short: "Rewrite a set's file without the space that is free in it",
		Args:  exactArgs("SET"),
	}
	c.Flags().BoolVar(&o.DropHistory, "drop-history", false, "forget which keys earlier revisions touched")
	online := func(ctx context.Context, name desired.Name, _ []string) error {
		return a.remote.operate(func(client espalierv1.OperatorServiceClient) error {
			resp, err := client.Compact(ctx, &espalierv1.CompactRequest{Set: string(name), DropHistory: o.DropHistory})
			if err != nil {
				return wire.FromStatus(err)
			}
			return a.printCompact(name, resp.GetBytesBefore(), resp.GetBytesAfter())
		})
	}
	offline := func(ctx context.Context, s *store.Store, name desired.Name, _ []string) error {
		r, err := s.Compact(ctx, name, o)
		if err != nil {
			return err
		}
		return a.printCompact(name, uint64(r.Before), uint64(r.After))
	}
	return a.maintenance(c, online, offline)
}

func (a *app) printCompact(name desired.Name, before, after uint64) error {
	if a.output == "json" {
		return a.document(struct {
			Set    desired.Name `json:"set"`
			Before uint64       `json:"bytes_before"`
			After  uint64       `json:"bytes_after"`
		}{name, before, after})
	}
	_, err := fmt.Fprintf(a.Out, "%s took %s, takes %s now\n", name, size(before), size(after))
	return err
}

func (a *app) backupCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "backup SET FILE",
		Short: "Copy a set to a new file, consistent even while it is written to",
		Args:  exactArgs("SET", "FILE"),
	}
	online := func(ctx context.Context, name desired.Name, args []string) error {
		if err := a.remote.check(); err != nil {
			return err
		}
		err := a.remote.operate(func(client espalierv1.OperatorServiceClient) error { // for what it says of a set that it can't serve
			_, err := client.GetHead(ctx, &espalierv1.GetHeadRequest{Set: string(name)})
			return wire.FromStatus(err)
		})
		if err != nil {
			return err
		}
		return a.backup(name, args[1], func(dir string) (string, error) { return a.mirror(ctx, name, dir) })
	}
	offline := func(ctx context.Context, s *store.Store, name desired.Name, args []string) error {
		return a.backup(name, args[1], func(dir string) (string, error) {
			path := filepath.Join(dir, "copy")
			_, err := s.Backup(ctx, name, path)
			return path, err
		})
	}
	return a.maintenance(c, online, offline)
}

// backup gives path, never over what is there, to the file that fn makes in a
// folder beside it. The folder bears the name of the file, and a lock: what
// somebody left there who was killed, the next backup to the file removes.
func (a *app) backup(name desired.Name, path string, fn func(dir string) (string, error)) error {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("backup to %s: %w", path, store.ErrExists)
	}
	folder := filepath.Dir(path)
	if _, err := os.Stat(folder); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	scratch := filepath.Join(folder, ".espalier-backup-"+filepath.Base(path))
	lock, err := store.LockDir(scratch, "backup")
	if err != nil {
		return fmt.Errorf("backup to %s: %w", path, err)
	}
	defer lock.Close()
	defer os.RemoveAll(scratch)
	dir := filepath.Join(scratch, "new")
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	file, err := fn(dir)
	if err != nil {
		return err
	}
	if err := os.Link(file, path); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	if err := syncFolder(folder); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	f, err := store.OpenFile(path)
	if err != nil {
		return err
	}
	defer f.Close()
	head := f.Head()
	if a.output == "json" {
		return a.document(headOf(name, head))
	}
	_, err = fmt.Fprintf(a.Out, "backed up %s at revision %d: %s, root %s\n", name, head.Number, counted(head.Objects, "object"), head.Root)
	return err
}

// mirror mirrors the set into dir as an agent does, so that the copy is proven
// by its root, and returns the mirror's file.
func (a *app) mirror(ctx context.Context, name desired.Name, dir string) (string, error) {
	creds, err := a.remote.credentials()
	if err != nil {
		return "", err
	}
	bar := a.progress("receiving")
	g, err := agent.Open(agent.Options{
		Host: "backup", Sets: []desired.Name{name}, Dir: dir, Server: a.remote.address, Credentials: creds, Logger: a.logger(),
		Progress: func(_ desired.Name, done, total uint64) { bar.Update(done, total) },
	})
	if err != nil {
		return "", err
	}
	_, err = g.Sync(ctx)
	bar.Finish()
	path, _ := g.MirrorPath(name)
	return path, errors.Join(err, g.Close())
}

// syncFolder makes names in a folder durable.
func syncFolder(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
