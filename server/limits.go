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
)

var (
	// A connection whose peer vanished is noticed within two minutes.
	keepaliveParams = keepalive.ServerParameters{Time: 90 * time.Second, Timeout: 20 * time.Second}
	keepalivePolicy = keepalive.EnforcementPolicy{MinTime: 20 * time.Second, PermitWithoutStream: true}
)
