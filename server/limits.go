package server

import (
	"time"

	"google.golang.org/grpc/keepalive"
)

// Every bound of the server, with its reason. Those of messages are in package
// delta.
const (
	// DefaultPollInterval keeps a host's staleness below a minute.
	DefaultPollInterval = 30 * time.Second
	// DefaultScrubBytes reads a set of a million objects in half a minute, at
	// a few percent of one core.
	DefaultScrubBytes = 4 << 20
	// ScrubPause is the rest between two passes.
	ScrubPause = time.Minute
	// StopTimeout is how long calls may go on once the server stops.
	StopTimeout = 10 * time.Second
	// StreamWindow and ConnWindow are static, since probing for the bandwidth
	// costs more bytes than an idle poll. A window holds what one pull may have
	// under way.
	StreamWindow = 1 << 20
	ConnWindow   = 4 << 20
	// MaxStreams bounds the calls of one connection.
	MaxStreams = 256
	// MaxHeaderBytes bounds the headers of one call.
	MaxHeaderBytes = 16 << 10
	// MaxUploadInMemory is how much of a commit's changes is gathered in memory;
	// a larger commit is put on disk until it is whole.
	MaxUploadInMemory = 4 << 20
	// MaxListedSets is how many sets one answer lists, and so far from what a
	// message may hold, with what is wrong with each.
	MaxListedSets = 1000
	// MaxLoggedRevisions is how many revisions one message of a log has, each
	// with what was said of it.
	MaxLoggedRevisions = 256
	// QuietTime is how long a warning isn't repeated, MaxWarnings how many
	// different ones are said in it: a fleet that asks for sets that don't exist
	// would fill a disk.
	QuietTime   = 10 * time.Minute
	MaxWarnings = 1000

	// HandshakeTimeout bounds how long a connection may take to get ready.
	HandshakeTimeout = 10 * time.Second
	// HandshakeRate is how many handshakes a second are begun, each of which
	// takes about 2 ms of CPU: the most that leaves half of two cores for those
	// who are in. HandshakeBurst lets a fleet come back at once.
	HandshakeRate  = 400
	HandshakeBurst = 400
	// MaxHalfOpen bounds the connections whose handshake isn't over, some 30 KiB
	// each; the oldest makes room.
	MaxHalfOpen = 512
	// MaxConnections bounds all, MaxConnectionsEach those of one bearer: an agent
	// has one, and a second for a moment.
	MaxConnections     = 32 << 10
	MaxConnectionsEach = 16
	// CallRate and CallBurst bound the calls on one connection, StrangerCallRate
	// and StrangerCallBurst those of who shows no certificate, who is sent away
	// after StrangerTime.
	CallRate          = 200
	CallBurst         = 400
	StrangerCallRate  = 1
	StrangerCallBurst = 5
	StrangerTime      = time.Minute
	// DefaultTokenLife and MaxTokenLife bound how long a token waits for its use.
	DefaultTokenLife = time.Hour
	MaxTokenLife     = 30 * 24 * time.Hour
	// AuditSync is how often the audit log is made durable; changes of trust
	// don't wait for it.
	AuditSync = time.Second
)

var (
	// A connection whose peer vanished is noticed within two minutes.
	// One that lives long is made anew, so that a balancer in between can move it.
	keepaliveParams = keepalive.ServerParameters{
		Time: 90 * time.Second, Timeout: 20 * time.Second,
		MaxConnectionIdle: 3 * time.Hour, MaxConnectionAge: 12 * time.Hour, MaxConnectionAgeGrace: time.Hour,
	}
	keepalivePolicy = keepalive.EnforcementPolicy{MinTime: 20 * time.Second, PermitWithoutStream: true}
)
