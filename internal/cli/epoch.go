package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"espalier/internal/desired"
	"espalier/internal/wire"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/store"
)

func (a *app) epochCommand() *cobra.Command {
	var why string
	c := &cobra.Command{
		Use:   "epoch SET",
		Short: "Start a new epoch from what a set holds, which all hosts follow",
		Long: "Starts a new epoch of a set from what it holds. Its history is dropped.\n\n" +
			"Where a file of the server's was put back from an older copy, hosts may hold revisions that the\n" +
			"server doesn't know. They keep what they have, and the server commits nothing to the set, until\n" +
			"it is settled who is right: the server as it is, which this says, or a backup, which\n" +
			"'espalier restore' does.",
		Args: exactArgs("SET"),
	}
	c.Flags().StringVarP(&why, "message", "m", "", "why, for the set's history")
	online := func(ctx context.Context, name desired.Name, _ []string) error {
		return a.remote.operate(func(client espalierv1.OperatorServiceClient) error {
			resp, err := client.Renew(ctx, &espalierv1.RenewRequest{Set: string(name), Why: why})
			if err != nil {
				return wire.FromStatus(err)
			}
			head, err := wire.HeadFromWire(resp.GetHead())
			if err != nil {
				return err
			}
			return a.printEpoch(name, head)
		})
	}
	offline := func(ctx context.Context, s *store.Store, name desired.Name, _ []string) error {
		head, err := s.Renew(ctx, name, "", why)
		if err != nil {
			return err
		}
		return a.printEpoch(name, head)
	}
	return a.maintenance(c, online, offline)
}

func (a *app) printEpoch(name desired.Name, head desired.Head) error {
	if a.output == "json" {
		return a.document(headOf(name, head))
	}
	_, err := fmt.Fprintf(a.Out, "%s is at revision %d of the new epoch %s: %s, root %s\n",
		name, head.Number, head.Epoch, counted(head.Objects, "object"), head.Root)
	return err
}
