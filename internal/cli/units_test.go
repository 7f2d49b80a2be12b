package cli_test

import (
	"os"
	"strings"
	"testing"
)

// TestUnits shows that the units for systemd run commands that there are.
func TestUnits(t *testing.T) {
	for _, unit := range []string{"agent", "server"} {
		text, err := os.ReadFile("../../deploy/espalier-" + unit + ".service")
		if err != nil {
			t.Fatal(err)
		}
		commands := 0
		for line := range strings.Lines(string(text)) {
			command, ok := strings.CutPrefix(line, "ExecStart=/usr/bin/espalier ")
			if !ok {
				continue
			}
			commands++
			args := append(strings.Fields(command), "--help")
			if status, out, errs := run(t, "", args...); status != 0 || !strings.Contains(out, "espalier "+args[0]+" ") {
				t.Errorf("%s: %s: %d, %q", unit, command, status, errs)
			}
		}
		if commands != 1 {
			t.Errorf("the unit of the %s runs %d commands, want 1", unit, commands)
		}
	}
}
