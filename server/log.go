package server

import (
	"context"
	"net"

	"google.golang.org/grpc/peer"
)

// who returns who makes a call: the address of its machine, until peers prove
// more of themselves.
func who(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return ""
	}
	host, _, err := net.SplitHostPort(p.Addr.String())
	if err != nil {
		return p.Addr.String()
	}
	return host
}
