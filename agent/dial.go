package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"espalier/internal/delta"
	"espalier/internal/wire"
)

// traffic counts the bytes of all connections, TCP payload, HTTP/2 and TLS
// included.
type traffic struct{ sent, received atomic.Uint64 }

// countedConn counts what passes through a connection.
type countedConn struct {
	net.Conn
	traffic *traffic
}

func (c countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.traffic.received.Add(uint64(n))
	return n, err
}

func (c countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.traffic.sent.Add(uint64(n))
	return n, err
}

// dial prepares a connection. Retries, hedging and service configuration by DNS
// are off: the agent decides itself when to ask again. Only the connection is
// made again by gRPC.
func dial(address string, secure credentials.TransportCredentials, t *traffic) (*grpc.ClientConn, error) {
	var dialer net.Dialer
	return grpc.NewClient(address,
		grpc.WithTransportCredentials(secure),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, "tcp", addr)
			if err != nil {
				return nil, err
			}
			return countedConn{Conn: c, traffic: t}, nil
		}),
		grpc.WithStaticStreamWindowSize(streamWindow),
		grpc.WithStaticConnWindowSize(connWindow),
		grpc.WithMaxHeaderListSize(maxHeaderBytes),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(delta.MaxMessageBytes), grpc.MaxCallSendMsgSize(delta.MaxMessageBytes)),
		grpc.WithKeepaliveParams(keepaliveParams),
		grpc.WithConnectParams(connectParams),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
	)
}

// errSilence is why a call ends on which the server says nothing.
var errSilence = fmt.Errorf("%w: nothing came for too long", wire.ErrUnreachable)

// silence bounds how long a call waits for the server.
//
// It is a timer and not a deadline, which would travel as a header of its own
// with every poll.
type silence struct {
	call   context.Context //nolint:containedctx // it is the call's own, and ends with it
	cancel context.CancelCauseFunc
	timer  *time.Timer
}

// withSilence bounds the first answer by most, and what follows by CallTimeout.
func withSilence(ctx context.Context, most time.Duration) (context.Context, *silence) {
	call, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(most, func() { cancel(errSilence) })
	return call, &silence{call: call, cancel: cancel, timer: timer}
}

// heard stops the clock: what the agent does with what it heard may take its
// time. listen starts it anew.
func (s *silence) heard()  { s.timer.Stop() }
func (s *silence) listen() { s.timer.Reset(CallTimeout) }

func (s *silence) stop() {
	s.timer.Stop()
	s.cancel(nil)
}

// explain returns what err, of the call, means.
func (s *silence) explain(err error) error {
	if cause := context.Cause(s.call); errors.Is(cause, errSilence) {
		return cause
	}
	return wire.FromStatus(err)
}
