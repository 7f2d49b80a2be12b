package exec_test

import (
	"bufio"
	"os"
	osexec "os/exec"
	"strings"
	"testing"
)

// TestEndsWithTheAgent shows that a program does not go on beside the one that the
// next agent starts.
func TestEndsWithTheAgent(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path, abandoned := fifo(t)
	c := osexec.Command(self)
	c.Env = append(os.Environ(), "PROGRAM_MODE=agent", "PROGRAM_FIFO="+path)
	stderr, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	said := bufio.NewReader(stderr)
	for line := ""; !strings.Contains(line, "text=held"); {
		if line, err = said.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait()
	abandoned()
}
