package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"espalier/bench"
)

func (a *app) benchFilesCommand() *cobra.Command {
	var o bench.FilesOptions
	c := &cobra.Command{
		Use:   "files",
		Short: "Applying files, against plain loops on the same file system",
		Long: "Writes small files in a plain loop, synced once, and has a host make as many from its mirror, as its agent does,\n" +
			"each durable before it gets its name and before it is recorded as done; then looks at them in a plain parallel walk\n" +
			"with an lstat of each, and has the host look for drift, by stats; and its driver by contents.\n\n" +
			"The ratios are how many times as fast the host is. All of it is in --dir, on whose file system the figures\n" +
			"depend, and is removed at the end.",
		Args: exactArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			for flag, n := range map[string]int{"files": o.Files, "value-bytes": o.ValueBytes, "rounds": o.Rounds} {
				if err := atLeastOne(flag, n); err != nil {
					return err
				}
			}
			return a.benchFiles(c.Context(), o)
		},
	}
	c.Flags().IntVar(&o.Files, "files", bench.DefaultFiles, "number of files")
	c.Flags().IntVar(&o.ValueBytes, "value-bytes", bench.DefaultFileBytes, "bytes in each")
	c.Flags().IntVar(&o.Rounds, "rounds", 1, "how often all is measured; the table has the medians")
	c.Flags().StringVar(&o.Dir, "dir", "", "folder to work in (default TMPDIR)")
	return c
}

func (a *app) benchFiles(ctx context.Context, o bench.FilesOptions) error {
	o.Observer = a.observer("files")
	r, err := bench.RunFiles(ctx, o)
	if err != nil {
		return interrupted(err)
	}
	if a.output == "json" {
		return a.document(r)
	}
	t := a.figures("WHAT", "TIME", "FILES/S", "X PLAIN")
	add := func(what string, seconds float64, ratio string) {
		t.AppendRow([]any{what, duration(seconds), grouped(uint64(float64(r.Files) / seconds)), ratio})
	}
	add("plain write loop", r.Write, "")
	add("the host's apply", r.Apply, fmt.Sprintf("%.2f", r.ApplyRatio))
	add("plain parallel walk", r.Walk, "")
	add("the host's scan", r.Scan, fmt.Sprintf("%.2f", r.ScanRatio))
	add("scan of contents", r.Contents, "")
	t.Render()
	_, err = fmt.Fprintf(a.Out, "\n%s of %d bytes, batches of %s, %d at once; medians of %d. %s, %d CPUs, %s.\n",
		counted(uint64(r.Files), "file"), r.ValueBytes, grouped(uint64(r.Batch)), r.Parallel, r.Rounds, r.System, r.CPUs, r.Go)
	return err
}
