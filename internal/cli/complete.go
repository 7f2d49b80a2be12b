package cli

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	espalierv1 "espalier/proto/espalier/v1"
)

// Who presses the tab key waits no longer than completeTimeout, and is offered no
// more than maxCompletions names.
const (
	completeTimeout = time.Second
	maxCompletions  = 200
)

// completeHost offers the names of sets, which hosts bear, too. Where the server
// can't be asked it offers nothing, without a word.
func (a *app) completeHost(c *cobra.Command, args []string, prefix string) (names []cobra.Completion, _ cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(c.Context(), completeTimeout)
	defer cancel()
	_ = a.remote.operate(func(client espalierv1.OperatorServiceClient) error {
		resp, err := client.ListSets(ctx, &espalierv1.ListSetsRequest{After: before(prefix), Limit: maxCompletions})
		for _, s := range resp.GetSets() {
			if strings.HasPrefix(s.GetName(), prefix) {
				names = append(names, s.GetName())
			}
		}
		return err
	})
	return names, cobra.ShellCompDirectiveNoFileComp
}

// before returns what is below all names that begin with prefix, and not below
// any other: '~' is above all that is in a name.
func before(prefix string) string {
	if prefix == "" {
		return ""
	}
	last := len(prefix) - 1
	return prefix[:last] + string(rune(prefix[last]-1)) + "~"
}
