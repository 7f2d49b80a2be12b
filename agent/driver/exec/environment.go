package exec

import (
	"os"
	"strings"
)

// handedOn are the agent's own variables that the program gets, too: what says
// where and how to write. Others may hold secrets, or be meant for the agent
// alone, as NOTIFY_SOCKET.
var handedOn = []string{"HOME", "LANG", "LC_ALL", "TMPDIR", "TZ"}

// environment returns what the program gets.
func environment(o Options) []string {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	for _, name := range handedOn {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	if o.Host != "" {
		env = append(env, "ESPALIER_HOST="+string(o.Host))
	}
	// The last of a name wins, also with programs that take the first.
	place := map[string]int{}
	for i, v := range env {
		name, _, _ := strings.Cut(v, "=")
		place[name] = i
	}
	for _, v := range o.Env {
		name, _, _ := strings.Cut(v, "=")
		if i, ok := place[name]; ok {
			env[i] = v
			continue
		}
		place[name] = len(env)
		env = append(env, v)
	}
	return env
}
