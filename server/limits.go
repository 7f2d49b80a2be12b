package server

import (
	"time"

	"google.golang.org/grpc/keepalive"

	"espalier/internal/delta"
)

// Every bound of the server, with its reason. That of a message is
// delta.MaxMessageBytes: the largest object has to fit into one.
const (
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
	// ReadBuffer is what every connection over TLS holds for as long as it lives;
	// gRPC shares other buffers between those that are at work. A poll takes a
	// small part of it, and the bulk of an upload goes past it.
	ReadBuffer = 4 << 10
	// MaxStreams bounds the calls under way on one connection, each of which may
	// hold a message that comes in, of delta.MaxMessageBytes: 77 MiB for all
	// of them. An agent has two; more wait at the client.
	MaxStreams = 16
	// MaxHeaderBytes bounds the headers of one call: many times what gRPC sends,
	// with room for what a proxy may add.
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
	// DefaultMaxHeld is how many polls wait at a time, each of which holds a stream
	// and the goroutine that waits: a fleet of 10,000.
	DefaultMaxHeld = 10_000
	// WakeRate and WakeBurst bound how many of them a second one change wakes: all
	// of a fleet, that mirrors one set, would pull at once.
	WakeRate  = 2000
	WakeBurst = 500
	// DefaultMaxPulls is how many pulls of hosts are under way, each of which has
	// some MiB in memory and on its way. MaxHostPulls bounds those of one host, which
	// has one, and what a broken network has left behind.
	DefaultMaxPulls = 256
	MaxHostPulls    = 4
	// MaxOperatorPulls bounds those of one operator, whatever it has connected: a few
	// backups and comparisons at a time, at some 7 MiB each.
	MaxOperatorPulls = 16
	// HostPollRate and HostPollBurst bound the polls of one host, over all its
	// connections: one that is held polls five times a second at most.
	HostPollRate  = 20
	HostPollBurst = 400
	// DefaultPollRate is how many polls a second are answered: half of what two
	// cores take.
	DefaultPollRate = 10_000
	// bytesBurst is what may be sent at once under a limit of bytes a second: the
	// largest message has to pass.
	bytesBurst = 2 * delta.MaxMessageBytes
	// RecallTime is for how long before a restart changes are counted from the
	// journals, RecallRevisions how many of them are enough to know the rate, and
	// RecallRate how many sets a second are read for it.
	RecallTime      = 24 * time.Hour
	RecallRevisions = 1000
	RecallRate      = 100
	// MaxListedHosts and listedBytes bound the hosts that one answer lists.
	MaxListedHosts = 250
	listedBytes    = 1 << 20
	// SeenSync is how often it is written down how the hosts fared: what a crash
	// forgets, they tell anew. seenBatch bounds one transaction.
	SeenSync  = 5 * time.Minute
	seenBatch = 5000
	// QuietTime is how long a warning isn't repeated, MaxWarnings how many
	// different ones are said in it: a fleet that asks for sets that don't exist
	// would fill a disk. MaxWarningsEach is how many of them may be about one
	// caller, who else could say them all and hide what others do.
	QuietTime       = 10 * time.Minute
	MaxWarnings     = 1000
	MaxWarningsEach = 100

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
	// MaxConnections bounds all: a fleet of 10,000 three times over.
	MaxConnections = 32 << 10
	// MaxHostConnections bounds those of one host, which has one, a second while
	// it renews its certificate, and a few that a broken network has left behind;
	// the oldest makes room. MaxOperatorConnections bounds those of an operator,
	// whose name many jobs may share; one more is refused.
	MaxHostConnections     = 4
	MaxOperatorConnections = 16
	// MaxStrangers bounds the connections of those who show no certificate, who
	// want a certificate or to know whether the server is up: the oldest makes
	// room. MaxStrangerBytes is all that one of them may send, with its
	// handshake: several times what either takes, and too little to fill memory
	// with.
	MaxStrangers     = 256
	MaxStrangerBytes = 64 << 10
	// MaxUnknownEach bounds the connections from one address of whom nobody knows
	// the bearer yet, or who shows no certificate: one machine, however hostile,
	// leaves half of the places of strangers to others, and more of the half-open.
	// A fleet behind one address gets in all the same, at HandshakeRate: a third
	// of a second's worth may be under way.
	MaxUnknownEach = 128
	// CallRate and CallBurst bound the calls on one connection, StrangerCallRate
	// and StrangerCallBurst those of who shows no certificate, who is sent away
	// after StrangerTime.
	CallRate          = 200
	CallBurst         = 400
	StrangerCallRate  = 1
	StrangerCallBurst = 5
	StrangerTime      = time.Minute
	// PartingTime is how long an admin's connection stays who has revoked himself:
	// enough for the answer. Calls on it are refused already.
	PartingTime = 2 * time.Second
	// MaxIssued is how many names the server remembers to whom something was
	// issued, of 50 bytes or so each.
	MaxIssued = 100_000
	// DefaultTokenLife and MaxTokenLife bound how long a token waits for its use.
	DefaultTokenLife = time.Hour
	MaxTokenLife     = 30 * 24 * time.Hour
	// AuditSync is how often the audit log is made durable; changes of trust
	// don't wait for it.
	AuditSync = time.Second
)

var (
	// A connection whose peer vanished is noticed within two minutes. One without
	// calls for much longer than any agent waits between polls is nobody's. One
	// that lives long is made anew, so that a balancer in between can move it;
	// its calls have as long to finish as the longest pull takes on a bad line.
	keepaliveParams = keepalive.ServerParameters{
		Time: 90 * time.Second, Timeout: 20 * time.Second,
		MaxConnectionIdle: 3 * time.Hour, MaxConnectionAge: 12 * time.Hour, MaxConnectionAgeGrace: time.Hour,
	}
	keepalivePolicy = keepalive.EnforcementPolicy{MinTime: 20 * time.Second, PermitWithoutStream: true}
)
