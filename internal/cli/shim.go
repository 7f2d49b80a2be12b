package cli

import (
	"github.com/spf13/cobra"

	"espalier/agent/driver/process"
)

// shimCommand is what stands between the agent and each copy of a program that it
// keeps running; not for people. The arguments are for who lists the host's
// processes.
func (a *app) shimCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "shim -- NAME REPLICA",
		Hidden: true,
		Args:   exactArgs("NAME", "REPLICA"),
		RunE:   func(*cobra.Command, []string) error { return process.Shim() },
	}
}
