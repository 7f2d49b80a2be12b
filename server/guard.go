package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"espalier/internal/fleet"
	"espalier/internal/pki"
)

// peerInfo is what is known of the other end of a connection.
type peerInfo struct {
	credentials.TLSInfo
	conn    *doorConn
	caller  caller // zero: it shows no certificate
	expires time.Time
	limit   *rate.Limiter // of its calls
}

// guard makes handshakes at a bounded rate with those who come through the
// door, and knows who is revoked.
type guard struct {
	credentials.TransportCredentials
	door  *door
	calls rate.Limit // on one connection
	fleet *fleet.Fleet

	mu sync.Mutex
	// until is, by identity, up to when what was issued is worth nothing.
	until map[string]time.Time
}

func newGuard(config *tls.Config, d *door, f *fleet.Fleet, until map[string]time.Time) *guard {
	config = config.Clone()
	handshakes := rate.NewLimiter(HandshakeRate, HandshakeBurst)
	// It is asked once the client's first message is there, and before anything
	// is computed: who connects and says nothing takes nobody's turn.
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		ctx, cancel := context.WithTimeout(hello.Context(), HandshakeTimeout)
		defer cancel()
		if err := handshakes.Wait(ctx); err != nil {
			return nil, fmt.Errorf("too many handshakes: %w", err)
		}
		return nil, nil // that is, config
	}
	return &guard{TransportCredentials: credentials.NewTLS(config), door: d, fleet: f, until: until}
}

// ServerHandshake implements credentials.TransportCredentials. Where it returns
// an error, the caller closes raw.
func (g *guard) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, ok := raw.(*doorConn)
	if !ok {
		return nil, nil, errors.New("a connection that has not come through the door")
	}
	conn, auth, err := g.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return nil, nil, err
	}
	info := &peerInfo{TLSInfo: auth.(credentials.TLSInfo), conn: c, limit: rate.NewLimiter(StrangerCallRate, StrangerCallBurst)}
	if certs := info.State.PeerCertificates; len(certs) > 0 {
		if info.caller.Identity, err = pki.IdentityOf(certs[0]); err != nil {
			return nil, nil, err
		}
		info.caller.fleet, info.expires = g.fleet, certs[0].NotAfter
		info.limit = rate.NewLimiter(g.calls, CallBurst)
	}
	bearer, until := info.caller.Identity, info.expires
	if g.revoked(bearer) || premature(bearer) { // who is told so at each call, and takes no room of the name's
		bearer, until = pki.Identity{}, time.Time{}
	}
	if err := g.door.settle(c, bearer, until); err != nil {
		return nil, nil, err
	}
	return conn, info, nil
}

// Clone implements credentials.TransportCredentials; a server doesn't call it.
func (g *guard) Clone() credentials.TransportCredentials { return g }

// premature reports whether what the bearer shows was issued in the future: by a
// clock that was wrong, or to outlive every revocation.
func premature(id pki.Identity) bool { return id.Issued.After(time.Now().Add(pki.Skew)) }

// revoked reports whether what the bearer shows is worth nothing any more.
func (g *guard) revoked(id pki.Identity) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	until, ok := g.until[id.String()]
	return ok && !id.Issued.After(until)
}

// connOf returns the connection that a call came by; nil: there is no TLS.
func connOf(ctx context.Context) *doorConn {
	if p, _ := peer.FromContext(ctx); p != nil {
		if info, ok := p.AuthInfo.(*peerInfo); ok {
			return info.conn
		}
	}
	return nil
}

// shutOut reports whether who bears the name was revoked, and has done nothing
// since.
func (g *guard) shutOut(id pki.Identity, seen time.Time) bool {
	if g == nil {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	until, ok := g.until[id.String()]
	return ok && !seen.After(until)
}

// revoke makes worthless what was issued to who up to now, which it returns, and
// ends their connections, of which it returns the number: but for last, which
// the caller ends if it is one of them.
//
// Whoever issues something to them meanwhile asks revoked about what they
// showed for it once it is made: it was made before now, then, or is not handed
// out.
func (g *guard) revoke(who string, last *doorConn) (now time.Time, ended int) {
	g.mu.Lock()
	now = time.Now()
	g.until[who] = now
	g.mu.Unlock()
	return now, g.door.end(who, last)
}

// limitCalls is asked about each call before anything of it is read, also of
// those of services that don't exist.
func (s *Server) limitCalls(ctx context.Context, _ *tap.Info) (context.Context, error) {
	p, _ := peer.FromContext(ctx)
	if p == nil {
		return ctx, nil // and the rules refuse it
	}
	info, ok := p.AuthInfo.(*peerInfo)
	if !ok || info.limit.Allow() {
		return ctx, nil
	}
	err := status.Error(codes.ResourceExhausted, "too many calls on one connection")
	s.logDenied(ctx, &info.caller, "", err)
	return ctx, err
}
