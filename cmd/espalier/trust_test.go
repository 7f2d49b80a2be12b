package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"espalier/internal/audit"
)

// secured starts a server with TLS, and returns the path of the credentials that
// it leaves for its machine's operator.
func secured(t *testing.T, data string) (*daemon, string) {
	t.Helper()
	return serveWith(t, data), filepath.Join(data, "pki", "admin.pem")
}

// token returns a new token; who are the flags of token create.
func token(t *testing.T, server *daemon, admin string, who ...string) string {
	t.Helper()
	var d struct{ Token string }
	must(t, &d, "", server.as(admin, append([]string{"token", "create"}, who...)...)...)
	return d.Token
}

// refused runs a command that has to end with the status and say why.
func refused(t *testing.T, status int, says string, args ...string) {
	t.Helper()
	if r := espalier(t, "", args...); r.status != status || !strings.Contains(r.stderr, says) {
		t.Errorf("espalier %s: status %d\n%s%swant %d and %q", strings.Join(args, " "), r.status, r.stdout, r.stderr, status, says)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// private fails the test unless the files and folders are their owner's alone.
func private(t *testing.T, folders, files []string) {
	t.Helper()
	for mode, paths := range map[os.FileMode][]string{os.ModeDir | 0o700: folders, 0o600: files} {
		for _, path := range paths {
			if info, err := os.Stat(path); err != nil || info.Mode() != mode {
				t.Errorf("%s: %v, %v, want mode %v", path, info.Mode(), err, mode)
			}
		}
	}
}

// TestFirstStart looks at what a server makes when it first starts, and what is
// left of it when it starts again.
func TestFirstStart(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "server")
	server, admin := secured(t, data)
	if said := server.says(t, regexp.MustCompile(`ESPALIER_IDENTITY" file=(\S+)`)); said != admin {
		t.Errorf("it says that the credentials are in %s, want %s", said, admin)
	}
	pki := filepath.Join(data, "pki")
	authority := filepath.Join(pki, "ca.pem")
	private(t, []string{data, pki}, []string{admin, authority, filepath.Join(data, "audit.jsonl")})
	kept := read(t, authority)
	old := filepath.Join(dir, "old.pem")
	overwrite(t, old, 0, []byte(read(t, admin)))
	must(t, nil, "", server.as(admin, "set", "s", "k", "v")...)

	server.kill(syscall.SIGTERM)
	server, admin = secured(t, data)
	if read(t, authority) != kept {
		t.Error("the authority is another one after a restart")
	}
	for _, identity := range []string{old, admin} {
		if r := must(t, nil, "", server.as(identity, "get", "s", "k")...); r.stdout != "v" {
			t.Errorf("get = %q", r.stdout)
		}
	}
	t.Setenv("ESPALIER_IDENTITY", admin)
	must(t, nil, "", server.host("head", "s")...)
}

// TestLostAuthority: a server that has lost its keys, or has shown them, does not
// go on as if it had not; one whose audit log was changed does, and says so.
func TestLostAuthority(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "server")
	pki := filepath.Join(data, "pki")
	server, admin := secured(t, data)
	must(t, nil, "", server.as(admin, "set", "s", "k", "v")...)
	server.kill(syscall.SIGTERM)
	serve := []string{"serve", "--listen", "127.0.0.1:0", "--data", data}
	for path, mode := range map[string]os.FileMode{pki: 0o700, filepath.Join(pki, "ca.pem"): 0o600} {
		for _, wide := range []os.FileMode{0o055, 0o002} {
			if err := os.Chmod(path, mode|wide); err != nil {
				t.Fatal(err)
			}
			refused(t, 1, "others may read or write them", serve...)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	refused(t, 2, "there is one in", append(serve, "--new-authority")...)
	refused(t, 2, "--new-authority goes without", append(serve, "--new-authority", "--insecure")...)
	if err := os.Rename(pki, filepath.Join(dir, "kept")); err != nil {
		t.Fatal(err)
	}
	refused(t, 3, "--new-authority makes another", serve...)
	if _, err := os.Stat(pki); err == nil {
		t.Error("it has made keys all the same")
	}
	server = serveWith(t, data, "--new-authority")
	if r := must(t, nil, "", server.as(admin, "get", "s", "k")...); r.stdout != "v" {
		t.Errorf("get with what the new authority has signed: %q", r.stdout)
	}
	server.kill(syscall.SIGTERM)

	put(t, filepath.Join(data, "audit.jsonl"), read(t, filepath.Join(data, "audit.jsonl")), "garbage\n")
	server, admin = secured(t, data)
	server.says(t, regexp.MustCompile(`level=WARN msg="the audit log is not what was written.*line 2 is no record`))
	must(t, nil, "", server.as(admin, "set", "s", "k", "w")...)
	refused(t, 1, "line 2 is no record", server.as(admin, "audit")...)

	none := filepath.Join(dir, "none")
	refused(t, 1, "no such file", "serve", "--listen", "127.0.0.1:0", "--data", none,
		"--tls-cert", filepath.Join(dir, "x.crt"), "--tls-key", filepath.Join(dir, "x.key"), "--client-ca", filepath.Join(dir, "ca.crt"))
	if _, err := os.Stat(none); err == nil {
		t.Error("it has made a data folder all the same")
	}
}

// TestJoin lets a host in by a token, which works once.
func TestJoin(t *testing.T) {
	dir := t.TempDir()
	server, admin := secured(t, filepath.Join(dir, "server"))
	must(t, nil, "", server.as(admin, "apply", "web-01", "-f", write(t, dir, 100, 1))...)
	must(t, nil, "", server.as(admin, "set", "web-02", "k", "v")...)
	data, other := filepath.Join(dir, "agent"), filepath.Join(dir, "other")
	ticket := token(t, server, admin, "--host", "web-01")
	agent := server.host("agent", "--once", "--data", data)
	refused(t, 3, "--join", agent...)
	for _, args := range [][]string{append(agent, "--join", ticket), agent, append(agent, "--join", ticket), append(agent, "--host", "web-01")} {
		var s synced
		if must(t, &s, "", args...); s.Host != "web-01" || s.Sets[0].Set != "web-01" || s.Sets[0].Objects != 100 {
			t.Errorf("agent: %+v", s)
		}
	}
	private(t, []string{data}, []string{filepath.Join(data, "identity.pem")})
	refused(t, 2, "host/web-01", append(agent, "--host", "web-02")...)
	refused(t, 3, "no such token", server.host("agent", "--once", "--data", other, "--join", ticket)...)
	refused(t, 3, "'espalier token create'", server.as(filepath.Join(dir, "x"), "login", ticket)...)
	refused(t, 2, "not whole", server.host("agent", "--once", "--data", other, "--join", ticket[:len(ticket)-1])...)

	piped := token(t, server, admin, "--host", "web-02")
	var s synced
	if must(t, &s, piped+"\n", server.host("agent", "--once", "--data", other, "--join", "-")...); s.Host != "web-02" {
		t.Errorf("agent with a token on standard input: %+v", s)
	}
	// A host's credentials are for its own set, and for nothing else.
	refused(t, 3, "host/web-01 may not", server.as(filepath.Join(data, "identity.pem"), "get", "web-01", "k")...)
	refused(t, 3, "host/web-01 may not", server.as(filepath.Join(data, "identity.pem"), "set", "web-01", "k", "v")...)
	refused(t, 3, "may not", server.as(filepath.Join(data, "identity.pem"), "backup", "web-02", filepath.Join(dir, "stolen"))...)
	// Nor is a host's token one for an operator, or for another host; and who
	// tries does not use it up.
	must(t, nil, "", server.as(admin, "set", "web-03", "k", "v")...)
	third, jo := token(t, server, admin, "--host", "web-03"), token(t, server, admin, "--operator", "jo", "--role", "reader")
	join := server.host("agent", "--once", "--data", filepath.Join(dir, "third"))
	refused(t, 3, "for somebody else: it lets host/web-03 in, and was not used up", server.as(filepath.Join(dir, "x"), "login", third)...)
	refused(t, 3, "'espalier login'", append(join, "--join", jo)...)
	refused(t, 3, "for somebody else: it lets host/web-03 in", append(join, "--join", third, "--host", "web-04")...)
	must(t, nil, "", server.as(filepath.Join(dir, "x"), "login", jo)...)
	must(t, nil, "", append(join, "--join", third, "--host", "web-03")...)
}

// TestImpostor: nobody follows, publishes to, or shows a token to a server of
// another authority.
func TestImpostor(t *testing.T) {
	dir := t.TempDir()
	server, admin := secured(t, filepath.Join(dir, "server"))
	impostor, theirs := secured(t, filepath.Join(dir, "impostor"))
	must(t, nil, "", server.as(admin, "set", "web-01", "k", "v")...)
	must(t, nil, "", impostor.as(theirs, "set", "web-01", "k", "w")...)
	data := filepath.Join(dir, "agent")
	must(t, nil, "", server.host("agent", "--once", "--data", data, "--join", token(t, server, admin, "--host", "web-01"))...)
	ticket := token(t, server, admin, "--host", "web-02")
	const says = "this is not the server that it should be"
	refused(t, 3, says, impostor.host("agent", "--once", "--data", data)...)
	refused(t, 3, says, impostor.host("agent", "--once", "--data", filepath.Join(dir, "new"), "--join", ticket)...)
	refused(t, 3, says, impostor.as(filepath.Join(dir, "x"), "login", ticket)...)
	refused(t, 3, says, impostor.as(admin, "set", "web-01", "k", "x")...)
	refused(t, 3, says, impostor.as(admin, "apply", "web-01", "-f", write(t, dir, 10, 1))...)
	refused(t, 3, says, impostor.as(admin, "backup", "web-01", filepath.Join(dir, "backup"))...)
	// None of which has used the token up.
	must(t, nil, "", server.as(admin, "set", "web-02", "k", "v")...)
	must(t, nil, "", server.host("agent", "--once", "--data", filepath.Join(dir, "new"), "--join", ticket)...)
}

// TestRoles: what an operator may do is what its certificate says.
func TestRoles(t *testing.T) {
	dir := t.TempDir()
	server, root := secured(t, filepath.Join(dir, "server"))
	for _, set := range []string{"web-01", "web-09", "db-01"} {
		must(t, nil, "", server.as(root, "set", set, "a", "b")...)
	}
	identity := map[string]string{}
	for role, flags := range map[string][]string{"reader": {"--sets", "web-*,cache"}, "writer": {"--sets", "web-*", "--sets", "cache"}, "admin": nil} {
		identity[role] = filepath.Join(dir, "operators", role+".pem")
		ticket := token(t, server, root, append(flags, "--operator", "jo", "--role", role)...)
		var d struct {
			Role, Name, Identity string
			Sets                 []string
			Expires              time.Time
		}
		must(t, &d, ticket, server.as(identity[role], "login", "-")...)
		if d.Role != role || d.Name != "jo" || d.Identity != identity[role] || (len(d.Sets) == 2) != (role != "admin") ||
			time.Until(d.Expires) < 29*24*time.Hour {
			t.Errorf("login: %+v", d)
		}
		refused(t, 3, "no such token", server.as(identity[role], "login", ticket)...)
		private(t, []string{filepath.Dir(identity[role])}, []string{identity[role]})
	}
	backup := filepath.Join(dir, "web-01.backup")
	must(t, nil, "", server.as(root, "backup", "web-01", backup)...)
	for _, c := range []struct {
		args                  string
		reader, writer, admin int // the exit status
	}{
		{"sets", 0, 0, 0},
		{"head web-01", 0, 0, 0},
		{"get web-01 a", 0, 0, 0},
		{"list web-01", 0, 0, 0},
		{"log web-01", 0, 0, 0},
		{"check web-01", 0, 0, 0},
		{"backup web-01 " + dir + "/ROLE.backup", 0, 0, 0},
		{"set web-01 k v", 3, 0, 0},
		{"delete web-01 k", 3, 0, 0},
		{"apply web-01 -f " + write(t, dir, 10, 1), 3, 0, 0},
		{"apply web-01 --prune --max-delete 100% -f " + write(t, dir, 20, 1), 3, 0, 0},
		{"head db-01", 1, 1, 0}, // a set of others is none
		{"backup db-01 " + dir + "/ROLE.stolen", 1, 1, 0},
		{"set db-01 k v", 3, 1, 0},
		{"sets delete web-09 --yes", 3, 3, 0},
		{"compact web-01", 3, 3, 0},
		{"epoch web-01", 3, 3, 0},
		{"restore web-01 --max-delete 100% " + backup, 3, 3, 0},
		{"token create --host web-07", 3, 3, 0},
		{"host revoke web-08", 3, 3, 0},
		{"operator revoke nobody", 3, 3, 0},
		{"audit", 3, 3, 0},
	} {
		for _, of := range []struct {
			role string
			want int
		}{{"reader", c.reader}, {"writer", c.writer}, {"admin", c.admin}} {
			args := server.as(identity[of.role], strings.Fields(strings.ReplaceAll(c.args, "ROLE", of.role))...)
			r := espalier(t, "", args...)
			if r.status != of.want || of.want == 3 && !strings.Contains(r.stderr, "your credentials are those in "+identity[of.role]) {
				t.Errorf("%s: %s: status %d, want %d\n%s", of.role, c.args, r.status, of.want, r.stderr)
			}
		}
	}
	if r := must(t, nil, "", server.as(identity["writer"], "sets")...); strings.Contains(r.stdout, "db-01") || !strings.Contains(r.stdout, "web-01") {
		t.Errorf("a writer's sets: %s", r.stdout)
	}
	// Who revokes himself is told that it was done.
	if r := must(t, nil, "", server.as(identity["admin"], "operator", "revoke", "jo", "-m", "left")...); !strings.Contains(r.stdout, "revoked jo; 1 connection ended\n") {
		t.Errorf("operator revoke: %s", r.stdout)
	}
	if r := must(t, nil, "", server.as(root, "host", "revoke", "web-77")...); !strings.Contains(r.stdout, "the audit log knows of no token") {
		t.Errorf("host revoke of who never was: %s", r.stdout)
	}
	for _, path := range identity {
		refused(t, 3, "revoked", server.as(path, "sets")...)
	}
}

// TestRevoke shuts out a host whose agent runs. It keeps what it has, and is let
// in again by a new token.
func TestRevoke(t *testing.T) {
	dir := t.TempDir()
	server, admin := secured(t, filepath.Join(dir, "server"))
	must(t, nil, "", server.as(admin, "apply", "web-01", "-f", write(t, dir, 100, 1))...)
	data := filepath.Join(dir, "agent")
	first := token(t, server, admin, "--host", "web-01")
	daemon := start(t, server.host("agent", "--interval", "1s", "--data", data, "--join", first)...)
	daemon.says(t, regexp.MustCompile(`msg=synced set=web-01 `))
	var d struct {
		Name        string
		Connections int
	}
	if must(t, &d, "", server.as(admin, "host", "revoke", "web-01", "-m", "stolen")...); d.Name != "web-01" || d.Connections != 1 {
		t.Errorf("revoke: %+v, want one connection ended", d)
	}
	must(t, nil, "", server.as(admin, "set", "web-01", "later", "v")...)
	daemon.says(t, regexp.MustCompile(`the server refuses this host.*certificate of host/web-01 was revoked`))
	daemon.kill(syscall.SIGTERM)
	if status := daemon.ProcessState.ExitCode(); status != 0 {
		t.Errorf("the agent ended with status %d", status)
	}
	var head commit
	if must(t, &head, "", "check", "web-01", "--data", mirrorAsStore(t, data)); head.Revision != 1 || head.Objects != 100 {
		t.Errorf("the mirror: %+v, want what was there before", head)
	}
	once := server.host("agent", "--once", "--data", data)
	refused(t, 3, "'espalier token create --host NAME'", once...)
	refused(t, 3, "no such token", append(once, "--join", first)...)
	var s synced
	if must(t, &s, "", append(once, "--join", token(t, server, admin, "--host", "web-01"))...); s.Sets[0].Objects != 101 || s.Sets[0].Mode != "delta" {
		t.Errorf("agent with a new token: %+v", s)
	}
	must(t, nil, "", once...)
	server.kill(syscall.SIGTERM) // and a restart forgets nothing
	server, admin = secured(t, filepath.Join(dir, "server"))
	must(t, nil, "", server.host("agent", "--once", "--data", data)...)
	must(t, nil, "", server.as(admin, "host", "revoke", "web-01")...)
	server.kill(syscall.SIGKILL)
	server, _ = secured(t, filepath.Join(dir, "server"))
	refused(t, 3, "revoked", server.host("agent", "--once", "--data", data)...)
}

// TestAudit reads who did what, over the server and on its folder, and changes
// a line of it.
func TestAudit(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "server")
	server, admin := secured(t, data)
	jo := filepath.Join(dir, "jo.pem")
	ticket := token(t, server, admin, "--operator", "jo", "--role", "writer")
	must(t, nil, "", server.as(jo, "login", ticket)...)
	must(t, nil, "", server.as(jo, "set", "web-01", "motd", "a secret value", "-m", "to \x1b[31m greet")...)
	refused(t, 3, "revision", server.as(jo, "apply", "web-01", "--expect", "7", "-f", write(t, dir, 10, 1))...)
	refused(t, 3, "no such token", server.as(filepath.Join(dir, "x"), "login", ticket)...)
	must(t, nil, "", server.as(admin, "host", "revoke", "web-02", "-m", "sold")...)
	want := []audit.Record{
		{Who: "admin/root", What: "create token", On: "writer/jo"},
		{Who: "nobody", What: "enroll", On: "writer/jo", Why: "for all sets"},
		{Who: "writer/jo", What: "commit", On: "web-01", Why: "to \x1b[31m greet", Revision: 1},
		{Who: "writer/jo", What: "commit", On: "web-01", Error: "revision"},
		{Who: "nobody", What: "refused", On: "/espalier.v1.TrustService/Enroll", Error: "no such token"},
		{Who: "admin/root", What: "revoke", On: "host/web-02", Why: "sold"},
	}
	places := map[string][]string{"server": server.as(admin, "audit"), "folder": {"audit", "--data", data}}
	for name, at := range places {
		text := must(t, nil, "", append(at, "-o", "json")...).stdout
		lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
		if len(lines) != len(want) {
			t.Fatalf("%s: %d records, want %d\n%s", name, len(lines), len(want), text)
		}
		for i, line := range lines {
			var r audit.Record
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				t.Fatalf("%s: %v in %s", name, err, line)
			}
			w := want[i]
			if r.Number != uint64(i+1) || r.Who != w.Who || r.What != w.What || r.On != w.On || r.From != "127.0.0.1" ||
				w.Error == "" && (r.Error != "" || r.Revision != w.Revision) || !strings.Contains(r.Error, w.Error) ||
				w.What != "create token" && r.Why != w.Why || time.Since(r.Time) > time.Hour {
				t.Errorf("%s: %+v, want %+v", name, r, w)
			}
		}
		for _, secret := range []string{ticket, "a secret value"} {
			if strings.Contains(text, secret) {
				t.Errorf("%s: the log tells %q", name, secret)
			}
		}
		r := must(t, nil, "", append(at, "--limit", "4")...)
		if strings.Count(r.stdout, "\n") != 4 || strings.Contains(r.stdout, "\x1b") || !strings.Contains(r.stdout, "sold") {
			t.Errorf("%s: the last four:\n%q", name, r.stdout)
		}
	}
	log := filepath.Join(data, "audit.jsonl")
	overwrite(t, log, 0, []byte(strings.Replace(read(t, log), `"who":"writer/jo"`, `"who":"writer/al"`, 1)))
	for _, at := range places {
		refused(t, 1, "the audit log was changed: line 4", at...)
	}
}

// TestCompleteHosts asks for names as a shell does: of sets, which hosts bear.
func TestCompleteHosts(t *testing.T) {
	server, admin := secured(t, filepath.Join(t.TempDir(), "server"))
	for _, set := range []string{"db-1", "web", "web-01", "web-02", "wec"} {
		must(t, nil, "", server.as(admin, "set", set, "k", "v")...)
	}
	for typed, want := range map[string]string{"": "db-1 web web-01 web-02 wec", "web": "web web-01 web-02", "web-0": "web-01 web-02", "x": "", "\xff": ""} {
		for _, command := range []string{"host revoke", "token create --host"} {
			args := append([]string{"__complete"}, strings.Fields(command)...)
			if command == "host revoke" {
				args = server.as(admin, args...)
			} else {
				args = append(server.as(admin, args[:3]...), args[3:]...)
			}
			r := must(t, nil, "", append(args, typed)...)
			if got, _, _ := strings.Cut(r.stdout, ":"); strings.Join(strings.Fields(got), " ") != want {
				t.Errorf("%s %s: offered %q, want %q", command, typed, got, want)
			}
		}
	}
	r := must(t, nil, "", "__complete", "host", "revoke", "--identity", admin, "--server", "127.0.0.1:1", "w")
	if !strings.HasPrefix(r.stdout, ":") {
		t.Errorf("without a server: %q", r.stdout)
	}
}
