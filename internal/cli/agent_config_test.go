package cli_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestCheckConfig shows what a person is told of a file, and what a program is.
func TestCheckConfig(t *testing.T) {
	const full = "../config/testdata/full.yaml"
	status, out, errs := run(t, "", "agent", "check-config", full)
	if status != 0 || errs != "" {
		t.Fatalf("check-config: %d, %q", status, errs)
	}
	for _, want := range []string{
		"host            web-01", "orchestrator-a:7600, [::1]:7600", "detect", "12.5%, at least 10 objects",
		"mon tue 22:00 to 04:30, daily 00:00 to 24:00", "20000.5 objects/s", "contents        none", "4.19 MB/s",
		"files/*  file     root: /srv/site, adopt: true", "log_bytes: 1572864", "*        exec     command: [/usr/local/bin/hook --zone ]",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("check-config prints %q, want %q in it", out, want)
		}
	}
	_, out, _ = run(t, "", "agent", "check-config", writeFile(t, ""))
	for _, want := range []string{"(what the certificate says)", "There are no drivers"} {
		if !strings.Contains(out, want) {
			t.Errorf("check-config of nothing prints %q, want %q in it", out, want)
		}
	}
	status, out, errs = run(t, "", "agent", "check-config", full, "-o", "json")
	var got map[string]any
	if err := json.Unmarshal([]byte(out), &got); err != nil || status != 0 || errs != "" {
		t.Fatalf("check-config -o json: %d, %q, %q", status, out, errs)
	}
	const want = `{"host":"web-01","server":["orchestrator-a:7600","[::1]:7600"],"data":"/var/lib/espalier","interval":"30s","drivers":[` +
		`{"prefix":"files/","driver":"file","root":"/srv/site","adopt":true,"unmanaged":["local/*","**/.git"],"cross_mounts":true,"max_watches":4096},` +
		`{"prefix":"run/","driver":"process","logs":"/var/log/espalier","log_bytes":1572864,"log_files":3},` +
		`{"prefix":"","driver":"exec","command":["/usr/local/bin/hook","--zone",""],"batch":200,"parallel":2,"timeout":"1m0s","check":true,` +
		`"env":{"A":"1","EMPTY":"","ZONE":"example.org"},"dir":"/tmp"}],` +
		`"apply":{"mode":"detect","max_delete":"12.5%","windows":[{"days":["mon","tue"],"from":"22:00","until":"04:30"},{"from":"00:00","until":"24:00"}],` +
		`"rate":100,"timeout":"5m0s"},"scan":{"interval":"10m0s","rate":20000.5,"contents_interval":"none","contents_rate":500,"contents_bytes":4194304}}` + "\n"
	if out != want {
		t.Errorf("check-config -o json prints %s, want %s", out, want)
	}
}

// TestWrongConfig shows that all that is wrong is told, by check-config and by the
// agent, each on a line that begins with the place.
func TestWrongConfig(t *testing.T) {
	path := writeFile(t, "host: Web\ndrivers:\n  - {prefix: a/, driver: fiel}\n")
	for _, args := range [][]string{
		{"agent", "check-config", path},
		{"agent", "check-config", path, "-o", "json"},
		{"agent", "--insecure", "--once", "--config", path, "--data", t.TempDir()},
	} {
		status, out, errs := run(t, "", args...)
		if status != 2 || out != "" || !strings.HasPrefix(errs, "espalier: 2 problems in the configuration:\n") ||
			!strings.Contains(errs, "\n"+path+":1: host: invalid name") || !strings.Contains(errs, "\n"+path+":3: unknown driver") {
			t.Errorf("%v: %d, %q, %q; want 2 and both problems", args, status, out, errs)
		}
	}
	for want, args := range map[string][]string{
		"no such file":                                        {"agent", "check-config", path + "x"},
		"espalier agent check-config takes FILE":              {"agent", "check-config"},
		"unknown command \"bogus\"":                           {"agent", "bogus"},
		"--data is needed, or ESPALIER_DATA":                  {"agent", "--insecure", "--host", "a"},
		"--host, or ESPALIER_HOST, is needed with --insecure": {"agent", "--insecure", "--data", t.TempDir()},
		"is in the agent's own folder": {
			"agent", "--insecure", "--host", "a", "--data", "/srv",
			"--config", writeFile(t, "drivers: [{prefix: a/, driver: file, root: /srv/x}]"),
		},
	} {
		status, out, errs := run(t, "", args...)
		if status == 0 || out != "" || !strings.Contains(errs, want) {
			t.Errorf("%v: %d, %q, %q; want %q", args, status, out, errs, want)
		}
	}
}

// TestConfiguredAgent runs an agent of which a file, the environment and flags say
// what it is.
func TestConfiguredAgent(t *testing.T) {
	_, addr, stop := serveFolder(t, t.TempDir())
	defer stop()
	t.Setenv("ESPALIER_SERVER", "")
	file, env := filepath.Join(t.TempDir(), "file"), filepath.Join(t.TempDir(), "env")
	path := writeFile(t, "host: from-file\nserver: '"+addr+"'\ndata: "+file+"\n")
	once := func(args ...string) (host string) {
		t.Helper()
		_, out, errs := run(t, "", append([]string{"agent", "--insecure", "--once", "-o", "json", "--config", path}, args...)...)
		var d struct{ Host string }
		if err := json.Unmarshal([]byte(out), &d); err != nil {
			t.Fatalf("agent %v: %q, %q", args, out, errs)
		}
		return d.Host
	}
	exists := func(dir string) bool {
		_, err := os.Stat(dir)
		return err == nil
	}
	if host := once(); host != "from-file" || !exists(file) {
		t.Errorf("by the file the agent is %s, and has its folder: %t", host, exists(file))
	}
	t.Setenv("ESPALIER_HOST", "from-env")
	t.Setenv("ESPALIER_DATA", env)
	if host := once(); host != "from-env" || !exists(env) {
		t.Errorf("by the environment the agent is %s, and has its folder: %t", host, exists(env))
	}
	if host := once("--host", "from-flag", "--data", t.TempDir()); host != "from-flag" {
		t.Errorf("by flags the agent is %s, want from-flag", host)
	}
	t.Setenv("ESPALIER_SERVER", "127.0.0.1:1") // nobody's: over the file, and under a flag
	if status, _, errs := run(t, "", "agent", "--insecure", "--once", "--config", path, "--timeout", "1m"); status != 4 {
		t.Errorf("with the environment's server: %d, %q, want 4", status, errs)
	}
	if host := once("--server", addr, "--data", t.TempDir()); host != "from-env" {
		t.Errorf("by a flag's server the agent is %s, want from-env", host)
	}
}
