package peer

import (
	"context"
	"fmt"
	"os"
	"os/exec"

	"espalier/bench/peers/internal/meter"
)

// childEnv names the server that a process of this program is to be.
const childEnv = "ESPALIER_PEERS_CHILD"

// servers are those that are libraries, each of which runs until its standard
// input ends: so they end with who started them, whatever happens.
var servers = map[string]func(dir, addr string) error{"etcd": serveEtcd, "nats": serveNATS, "xds": serveXDS}

// IsChild reports whether this process is to be a server, and then has been one
// until it was to end. Call it first in main.
func IsChild() bool {
	kind, ok := os.LookupEnv(childEnv)
	if !ok {
		return false
	}
	serve := servers[kind]
	if serve == nil || len(os.Args) != 3 {
		fmt.Fprintf(os.Stderr, "%s=%s is for this program's own use\n", childEnv, kind)
		os.Exit(2)
	}
	if err := serve(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return true
}

// child prepares this program as a server of that kind.
func child(kind, dir, addr string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	command := exec.Command(self, dir, addr)
	command.Env = append(os.Environ(), childEnv+"="+kind)
	return command, nil
}

// startChild starts this program as a server, and waits until it listens.
func startChild(ctx context.Context, kind, dir string) (p *meter.Process, addr string, err error) {
	if addr, err = meter.FreeAddr(); err != nil {
		return nil, "", err
	}
	command, err := child(kind, dir, addr)
	if err != nil {
		return nil, "", err
	}
	return startListening(ctx, command, addr)
}

// startListening starts a server, and waits until it listens.
func startListening(ctx context.Context, command *exec.Cmd, addr string) (*meter.Process, string, error) {
	p, err := meter.Start(command)
	if err != nil {
		return nil, "", err
	}
	if err := p.AwaitListening(ctx, addr); err != nil {
		_ = p.Stop()
		return nil, "", fmt.Errorf("%s: %w", command.Path, err)
	}
	return p, addr, nil
}
