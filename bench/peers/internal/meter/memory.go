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

// Memory is what was resident of a process at most, in bytes.
type Memory struct {
	// Resident is the kernel's own figure, or that of a sample of the process and
	// its children together, if that is more.
	Resident uint64
	// Own is what is not pages of files, which the kernel can drop: the most of
	// the samples.
	Own uint64
}

// WatchPeak returns the most memory that was resident at a time until stop is
// called. It takes a sample every memoryPeriod.
func (p *Process) WatchPeak() (stop func() Memory) {
	_ = os.WriteFile(p.proc("clear_refs"), []byte("5"), 0) // the kernel's figure begins anew
	var peak Memory
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(memoryPeriod)
		defer tick.Stop()
		for {
			resident, own := uint64(0), uint64(0)
			for _, pid := range append(p.children(), p.command.Process.Pid) {
				resident += memory(pid, "VmRSS")
				own += memory(pid, "RssAnon")
			}
			peak = Memory{Resident: max(peak.Resident, resident), Own: max(peak.Own, own)}
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	}()
	return func() Memory {
		close(done)
		<-ended
		peak.Resident = max(peak.Resident, memory(p.command.Process.Pid, "VmHWM"))
		return peak
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
