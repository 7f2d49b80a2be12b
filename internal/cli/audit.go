package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"espalier/internal/audit"
	"espalier/internal/delta"
	"espalier/internal/wire"
	espalierv1 "espalier/proto/espalier/v1"
)

func (a *app) auditCommand() *cobra.Command {
	var limit uint64
	var l local
	c := &cobra.Command{
		Use:   "audit",
		Short: "Show what was changed, by whom, from where and why, and check that the log still says so",
		Long: "Shows what was changed, or was refused: number, time, who, what, on which set, host or operator. Each line\n" +
			"of the log holds the digest of the one before: where that is not so, it was changed, and audit fails.\n" +
			"--data reads audit.jsonl in a server's data folder, whether the server runs or not.",
		Args: exactArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			if l.data == "" {
				return a.auditOnline(c.Context(), limit)
			}
			return a.auditOffline(filepath.Join(l.data, auditFile), limit)
		},
	}
	c.Flags().Uint64Var(&limit, "limit", 50, "the most records to show, the latest; 0: all")
	l.addFlags(c)
	a.remote.addFlags(c)
	return c
}

func (a *app) auditOnline(ctx context.Context, limit uint64) error {
	return a.remote.trusting(func(client espalierv1.TrustServiceClient) error {
		stream, err := client.Audit(ctx, &espalierv1.AuditRequest{Limit: limit})
		if err != nil {
			return wire.FromStatus(err)
		}
		return eachMessage(stream, func(resp *espalierv1.AuditResponse) error {
			for _, line := range resp.GetRecords() {
				if err := a.printRecord(line); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// auditOffline reads the log of a server, running or not.
func (a *app) auditOffline(path string, limit uint64) error {
	var lines [][]byte
	err := audit.Read(path, func(line []byte, _ audit.Record) error {
		if lines = append(lines, append([]byte(nil), line...)); limit > 0 && uint64(len(lines)) > limit {
			lines = lines[1:]
		}
		return nil
	})
	for _, line := range lines {
		if err := a.printRecord(line); err != nil {
			return err
		}
	}
	return err
}

func (a *app) printRecord(line []byte) error {
	if a.output == "json" {
		_, err := fmt.Fprintf(a.Out, "%s\n", line)
		return err
	}
	var r audit.Record
	if err := json.Unmarshal(line, &r); err != nil {
		return fmt.Errorf("%w: a record that is none: %v", delta.ErrProtocol, err) //nolint:errorlint // the server's fault
	}
	text := fmt.Sprintf("%6d  %s  %s  %s", r.Number, r.Time.Format(time.RFC3339), r.Who, r.What)
	for _, more := range []struct{ name, value string }{
		{"", r.On}, {"from ", r.From}, {"", r.Why}, {"refused: ", r.Error},
	} {
		if more.value != "" {
			text += "  " + more.name + more.value
		}
	}
	if r.Revision > 0 {
		text += fmt.Sprintf("  revision %d", r.Revision)
	}
	_, err := fmt.Fprintln(a.Out, printable(text))
	return err
}
