package pattern

import (
	"time"
)

// Every bound and constant of the model, with its reason. docs/bench-patterns.md
// says what they stand for.
const (
	// MinObjects leaves something to change; MaxObjects is what keys have room
	// for.
	MinObjects = 100
	MaxObjects = 50_000_000
	// MaxValueBytes, MaxChanges and MaxAgents bound what a run takes, together with
	// MaxTotal and MaxWork.
	MaxValueBytes = 64 << 10
	MaxChanges    = 100_000
	MaxAgents     = 10_000
	// MinEverySeconds and MaxEverySeconds bound the rate of change.
	MinEverySeconds = 0.01
	MaxEverySeconds = 24 * 3600
	// MaxLoss is where a TCP that has so many timeouts is no model of one.
	MaxLoss = 0.3
	// MaxDelayMillis is more than a satellite takes.
	MaxDelayMillis = 2000
	MinMbit        = 0.01
	MaxMbit        = 1e6
	// MinDuration and MaxDuration bound how long states change.
	MinDuration = 15 * time.Minute
	MaxDuration = 7 * 24 * time.Hour
	// MaxTotal bounds the changes of a history, and MaxWork that number times the
	// agents that follow it: some 100 bytes and 4 bytes of memory for each. MaxRuns
	// bounds how often histories are played.
	MaxTotal = 10_000_000
	MaxWork  = 100_000_000
	MaxRuns  = 10_000

	// DefaultDuration is for how long states change; grace is the time after,
	// without faults, in which all have to converge that will: twice the longest
	// wait of any pattern, a poll every 5 minutes.
	DefaultDuration = time.Hour
	grace           = 10 * time.Minute

	// changeShare is the largest part of a state that one commit touches.
	changeShare = 10
	// wholeSample is how many objects are encoded to learn what one takes.
	wholeSample = 20_000
)

// The network.
const (
	segment = 1460 // bytes: Ethernet's, less the headers of IPv4 and TCP
	// firstWindow is the segments that TCP sends at first (RFC 6928), and again
	// after it was idle for idleTime.
	firstWindow = 10
	idleTime    = time.Second
	// minTimeout and maxTimeout bound TCP's retransmission timeout (Linux has 200 ms
	// and 120 s). tailSegments is how many of a message's last segments nothing
	// follows that would show their loss sooner.
	minTimeout   = 200 * time.Millisecond
	maxTimeout   = 120 * time.Second
	tailSegments = 3
	// datagramJitter is how much longer a datagram takes than another, at most, as
	// a part of the delay: enough for them to overtake each other.
	datagramJitter = 0.5
	// A connection costs TLS 1.3 with certificates on both sides: two round trips
	// with TCP's own, and these bytes ('espalier bench poll --tls').
	handshakeUp   = 1300
	handshakeDown = 1700
	dialTimeout   = 20 * time.Second
	// Reconnecting waits at random between half and one and a half of a time that
	// doubles from minRetry to maxRetry, and is forgotten after healthyTime (as
	// client-go's reflector has it).
	minRetry    = 800 * time.Millisecond
	maxRetry    = 30 * time.Second
	healthyTime = 2 * time.Minute
)

// The faults.
const (
	cutsEvery           = 5 * time.Minute
	partitionTime       = 10 * time.Minute
	restartsEvery       = 15 * time.Minute
	agentDownTime       = 10 * time.Second
	rollbackTime        = 10 * time.Minute
	serverRestartsEvery = 30 * time.Minute
	serverDownTime      = 30 * time.Second
)

// Messages, in bytes. Objects travel in Espalier's frames, whatever the pattern:
// prefix-coded keys, values as they are. Whose encoding is better is not the
// question here.
const (
	// messageBytes is what frames a message: HTTP/2's header of 9 bytes, gRPC's of
	// 5, and protobuf's tags and lengths.
	messageBytes = 20
	// callUp and callDown are what frames a question and its answer: headers and
	// trailers, once HPACK knows them, and a revision. An empty gRPC call takes 66
	// bytes ('espalier bench poll').
	callUp   = 50
	callDown = 40
	// noticeBytes is a message that names a revision and nothing else: an
	// interrupt, a heartbeat, a bookmark, an acknowledgement.
	noticeBytes = messageBytes + 12
	// datagramBytes is the most in one datagram.
	datagramBytes = 1400
)

// What the orchestrator does, in seconds of one core's time.
const (
	// cpuMessage is for a message in or out: half of what an empty call costs
	// both ends, and its system calls ('espalier bench poll': 71 µs for both ends, 2
	// messages).
	cpuMessage = 18e-6
	// cpuObject reads an object, checks and encodes it: half of the 2.5 s that a
	// first sync of a million takes both ends.
	cpuObject = 1.25e-6
	// cpuByte encrypts and copies a byte of what is sent, about 3 GB/s.
	cpuByte = 0.3e-9
	// cpuRow reads a row of the tree and shortens its digest (bench transfer's
	// descents); rowBytes is what it reads for it.
	cpuRow   = 0.1e-6
	rowBytes = keyBytes + 32 + 8
)

// The patterns' own figures.
const (
	// pollInterval is that of a full poll, safetyInterval of one that is to make up
	// for lost interrupts; both give or take pollJitter.
	pollInterval   = 30 * time.Second
	safetyInterval = 5 * time.Minute
	pollJitter     = 0.1
	// debounce is how long an interrupt waits for others.
	debounce = time.Second
	// heartbeatEvery is how often those who push numbered deltas say which was the
	// last, and reorderTime how long a gap may last before it is one.
	heartbeatEvery = 10 * time.Second
	reorderTime    = 200 * time.Millisecond
	// historyTime is for how long a server remembers changes, whose pattern needs
	// it to: etcd's compaction under Kubernetes.
	historyTime = 5 * time.Minute
	// unackedMost is how many messages a broker delivers unacknowledged, and
	// queueMost how many a bounded queue holds of one agent's.
	unackedMost = 100
	queueMost   = 256
	// A watch ends after 5 to 10 minutes, and brings a bookmark every minute
	// (Kubernetes).
	watchTime     = 5 * time.Minute
	bookmarkEvery = time.Minute
	// relistEvery is how often informer-relist lists everything.
	relistEvery = 10 * time.Minute
	// What Espalier's calls take beside frames: of a poll; of an answer with a delta
	// or that says to pull; of a pull's opening, its beginning and its end
	// ('espalier bench transfer' and 'poll').
	pollUp     = 66
	pollDown   = 40
	inlineDown = 41
	pullDown   = 95
	openUp     = 135
	beginDown  = 120
	endDown    = 40
	// journalLeast is how many keys a journal holds at least; else an eighth of the
	// set's objects.
	journalLeast = 4096
	journalShare = 8
	// hold is how long Espalier's polls are held: agent.DefaultHold.
	hold = 5 * time.Minute
	// pollShare is Espalier's budget of polls a second for each agent: that of a
	// server with 10,000 of them, and pace's default budget.
	pollShare = 500.0 / 10_000
)
