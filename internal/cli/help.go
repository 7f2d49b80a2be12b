package cli

import (
	"errors"

	"github.com/spf13/cobra"
)

// helpCommand is cobra's, but fails where there is nothing to tell about.
func (a *app) helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Show help about a command",
		RunE: func(c *cobra.Command, args []string) error {
			topic, rest, err := c.Root().Find(args)
			if err == nil && len(rest) > 0 {
				err = unknownCommand(topic, rest[0])
			}
			if err != nil {
				return err
			}
			topic.InitDefaultHelpFlag()
			return topic.Help()
		},
	}
}

// help shows the help that show would, unless it was asked for with a word that
// is no command; cobra would pass over that.
func (a *app) help(show func(*cobra.Command, []string)) func(*cobra.Command, []string) {
	return func(c *cobra.Command, args []string) {
		if words := c.Flags().Args(); c.HasSubCommands() && len(words) > 0 {
			a.err = errors.Join(a.err, unknownCommand(c, words[0]))
			return
		}
		show(c, args)
	}
}

func unknownCommand(parent *cobra.Command, name string) error {
	return misusef("unknown command %q\nsee '%s --help'", name, parent.CommandPath())
}
