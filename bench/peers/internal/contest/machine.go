package contest

import (
	"bufio"
	"os"
	"runtime"
	"strings"
)

// Machine says where something was measured.
type Machine struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Memory uint64 `json:"memory_bytes"`
	Kernel string `json:"kernel"`
	Go     string `json:"go"`
}

func thisMachine() Machine {
	m := Machine{CPU: "unknown", Cores: runtime.NumCPU(), Go: strings.TrimPrefix(runtime.Version(), "go")}
	if kernel, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(kernel))
	}
	if name := field("/proc/cpuinfo", "model name"); name != "" {
		m.CPU = name
	}
	var kilobytes uint64
	for _, c := range strings.TrimSuffix(field("/proc/meminfo", "MemTotal"), " kB") {
		if c >= '0' && c <= '9' {
			kilobytes = kilobytes*10 + uint64(c-'0')
		}
	}
	m.Memory = kilobytes << 10
	return m
}

// field returns what follows a name in the first line of a file that begins with
// it; "": there is none.
func field(path, name string) string {
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if k, v, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
