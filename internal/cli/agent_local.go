package cli

import (
	"context"
	"fmt"
	"iter"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"espalier/agent"
	"espalier/internal/config"
	"espalier/internal/desired"
	"espalier/internal/onhost"
)

// localCommand returns a command that asks the agent which runs on this host.
func (a *app) localCommand(use, short string, run func(ctx context.Context, c *onhost.Client, args []string) error, wants ...string) *cobra.Command {
	var data string
	c := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  exactArgs(wants...),
		RunE: func(c *cobra.Command, args []string) error {
			if data == "" {
				data = os.Getenv(config.EnvData)
			}
			if data == "" {
				return misusef("--data is needed, or %s: the folder of the agent", config.EnvData)
			}
			return run(c.Context(), onhost.NewClient(data), args)
		},
	}
	c.Flags().StringVar(&data, "data", "", "folder of the agent that runs on this host (or ESPALIER_DATA)")
	return c
}

func (a *app) agentStatusCommand() *cobra.Command {
	var failed bool
	c := a.localCommand("status", "Show how far the agent on this host is",
		func(ctx context.Context, client *onhost.Client, _ []string) error {
			if failed {
				return a.printFailures(client.Failures(ctx))
			}
			s, err := client.Status(ctx)
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.document(s)
			}
			if s.Applying == nil {
				_, err := fmt.Fprintf(a.Out, "%s only mirrors: its agent has no drivers\n", s.Host)
				return err
			}
			return a.printApplying(s.Host, s.Applying)
		})
	c.Flags().BoolVar(&failed, "failed", false, "list all objects that have failed, instead")
	return c
}

func (a *app) agentPauseCommand() *cobra.Command {
	var why string
	c := a.localCommand("pause", "Have the agent on this host leave it as it is, until 'resume'",
		func(ctx context.Context, client *onhost.Client, _ []string) error { return client.Pause(ctx, why) })
	c.Flags().StringVarP(&why, "message", "m", "", "why, for who looks at it later")
	return c
}

func (a *app) agentResumeCommand() *cobra.Command {
	return a.localCommand("resume", "Have the agent on this host go on after 'pause'",
		func(ctx context.Context, client *onhost.Client, _ []string) error { return client.Resume(ctx) })
}

func (a *app) agentReleaseCommand() *cobra.Command {
	return a.localCommand("release ROOT", "Let the agent on this host delete as much as the state of that root asks for",
		func(ctx context.Context, client *onhost.Client, args []string) error {
			root, err := desired.ParseDigest(args[0])
			if err != nil {
				return err
			}
			return client.Release(ctx, root)
		}, "ROOT")
}

// printApplying prints how far a host is, for people.
func (a *app) printApplying(host desired.Name, c *desired.Convergence) error {
	fmt.Fprintf(a.Out, "%s is %s\n", host, applyingText(c))
	a.printMatch(c, "espalier agent release "+c.Desired.String())
	return a.printFailed(c)
}

// applyingText says in a sentence how far a host is.
func applyingText(c *desired.Convergence) string {
	var parts []string
	if c.Reason != "" {
		parts = append(parts, printable(c.Reason))
	}
	if c.Pending > 0 {
		parts = append(parts, fmt.Sprintf("%s pending", counted(c.Pending, "object")))
	}
	if len(parts) == 0 {
		return c.State.String()
	}
	return c.State.String() + ": " + strings.Join(parts, "; ")
}

func (a *app) printFailures(all iter.Seq2[desired.Failure, error]) error {
	for f, err := range all {
		if err == nil && a.output == "json" {
			err = a.document(f)
		} else if err == nil {
			_, err = fmt.Fprintf(a.Out, "%s: %s (%s)\n", printable(f.Key), printable(f.Error), counted(uint64(f.Attempts), "attempt"))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// printPlan prints what would be done, and for people how much that is.
func (a *app) printPlan(plan iter.Seq2[agent.Step, error]) error {
	counts := map[string]uint64{}
	for s, err := range plan {
		if err != nil {
			return err
		}
		counts[s.Action]++
		if a.output == "json" {
			err = a.document(s)
		} else {
			line := fmt.Sprintf("%-7s %s", s.Action, printable(s.Key))
			if s.Why != "" {
				line += " (" + printable(s.Why) + ")"
			}
			_, err = fmt.Fprintln(a.Out, line)
		}
		if err != nil {
			return err
		}
	}
	if a.output == "json" {
		return nil
	}
	_, err := fmt.Fprintf(a.Out, "%d would be created, %d updated, %d deleted, %d corrected\n",
		counts["create"], counts["update"], counts["delete"], counts["correct"])
	return err
}
