package cli

import (
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  exactArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			if a.output == "json" {
				return a.document(struct {
					Version string `json:"version"`
				}{version()})
			}
			_, err := fmt.Fprintf(a.Out, "espalier %s\n", version())
			return err
		},
	}
}

// version returns the module's version as the program was built from it, or the
// commit, where it was built from a clone without one.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	revision, modified := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			modified = "+dirty"
		}
	}
	if revision == "" {
		return "(devel)"
	}
	return "(devel) " + revision + modified
}
