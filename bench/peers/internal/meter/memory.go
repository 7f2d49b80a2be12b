package meter

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// memoryPeriod is how often the memory of children is looked at.
const memoryPeriod = 20 * time.Millisecond

// WatchPeak returns the most memory that was resident at a time, in bytes, until
// stop is called: the kernel's own figure for the process, and a sample every
// memoryPeriod of it and its children together.
func (p *Process) WatchPeak() (stop func() uint64) {
	_ = os.WriteFile(p.proc("clear_refs"), []byte("5"), 0) // the kernel's figure begins anew
	var peak uint64
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(memoryPeriod)
		defer tick.Stop()
		for {
			if children := p.children(); len(children) > 0 {
				sum := memory(p.command.Process.Pid, "VmRSS")
				for _, pid := range children {
					sum += memory(pid, "VmRSS")
				}
				peak = max(peak, sum)
			}
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	}()
	return func() uint64 {
		close(done)
		<-ended
		return max(peak, memory(p.command.Process.Pid, "VmHWM"))
	}
}

// children returns those that the process has now.
func (p *Process) children() (pids []int) {
	lists, _ := filepath.Glob(p.proc("task/*/children")) // the pattern is right
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			continue // the thread has ended
		}
		for word := range strings.FieldsSeq(string(text)) {
			var pid int
			if _, err := fmt.Sscan(word, &pid); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// memory returns a figure of a process, in bytes; 0: it has ended.
func memory(pid int, name string) uint64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(text)) {
		rest, ok := strings.CutPrefix(line, name+":")
		if !ok {
			continue
		}
		var kilobytes uint64
		if _, err := fmt.Sscan(rest, &kilobytes); err == nil {
			return kilobytes << 10
		}
	}
	return 0
}
