package agent

import (
	"time"

	"google.golang.org/grpc"
	connectBackoff "google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"
)

// Every bound of the agent, with its reason. Those of messages are in package
// delta.
const (
	// CallTimeout bounds a poll, and the silence within a pull.
	CallTimeout = 60 * time.Second
	// DefaultHold is for how long a server may hold a poll: few polls, and still
	// one that is lost is noticed soon.
	DefaultHold = 5 * time.Minute
	// scrubBytes is what is read of the mirrors in scrubEvery: a set of a million
	// objects in an hour.
	scrubBytes = 2 << 20
	// scrubEvery is what polls have to be apart for that: those that follow a burst
	// of changes don't scrub each time. One that was held for long makes up for it,
	// within scrubMost.
	scrubEvery = 30 * time.Second
	scrubMost  = 32 << 20
	// renewRetry is how long after a failure a certificate is renewed.
	renewRetry = time.Minute
	// deliverBytes bounds what is read at once for a Handler.
	deliverBytes = 1 << 20

	// The windows are static, since probing for the bandwidth costs more bytes
	// than an idle poll.
	streamWindow   = 4 << 20
	connWindow     = 8 << 20
	maxHeaderBytes = 16 << 10
)

// A connection whose peer vanished is noticed within a minute of a call.
var keepaliveParams = keepalive.ClientParameters{Time: 40 * time.Second, Timeout: 20 * time.Second}

// One attempt at a connection may take so long, the handshake included. When the
// next is, the agent says (see freshen), and not gRPC's own backoff.
var connectParams = grpc.ConnectParams{Backoff: connectBackoff.DefaultConfig, MinConnectTimeout: 20 * time.Second}
