package delta

import "espalier/internal/desired"

// Every bound of the conversation, with its reason.
const (
	// FrameBytes is the size at which a frame is closed: large enough that
	// framing costs nothing, small enough to be a unit of progress.
	FrameBytes = 128 << 10
	// firstFrameBytes is the size of a pull's first frame; each is twice as large as
	// the one before, up to FrameBytes. So a connection that is cut before it has
	// carried a whole frame of those brings something, too.
	firstFrameBytes = 16 << 10
	// MaxFrameChanges bounds the changes of one frame, and so the slices that
	// decoding one makes.
	MaxFrameChanges = 16 << 10
	// MaxFrameKeyBytes bounds the keys of a frame once they are whole: prefixes
	// that they share cost nothing on the wire.
	MaxFrameKeyBytes = 4 * FrameBytes
	// MaxFrameBytes bounds a frame, encoded or decoded: one that was almost full
	// when the largest object came.
	MaxFrameBytes = FrameBytes + desired.MaxEnvelopeBytes + desired.MaxKeyBytes + 1024
	// MaxMessageBytes bounds a message of the wire: a frame and its wrapping.
	MaxMessageBytes = MaxFrameBytes + FrameBytes
	// InlineBytes is the largest frame that answers a poll.
	InlineBytes = 64 << 10
	// MaxTouched bounds the keys of a delta; a sender holds them in memory.
	MaxTouched = 512 << 10
	// MaxNodes bounds the nodes listed for one level of a descent, and
	// MaxNodeBytes their first keys, which a sender keeps. Beyond, a receiver is
	// sent everything.
	MaxNodes     = 1 << 20
	MaxNodeBytes = 64 << 20
	// PartDigests is the most digests that a part of Leaves names: a receiver
	// keeps their keys until it is answered.
	PartDigests = 4096
	// leavesBytes is the size at which a message of Leaves is closed, and
	// leavesWindow how much of them a receiver leaves unanswered before it waits:
	// enough to fill a pipe, and little enough to keep. A sender puts up with
	// twice as much.
	leavesBytes  = 64 << 10
	leavesWindow = 2 << 20
	// partBytes is what a part of Leaves counts for in the window, besides its
	// digests and the key that it is cut at.
	partBytes = 16
	// partsBytes is the size at which the answers to parts are closed: with one
	// more, and the largest frame, they fit into a message.
	partsBytes = FrameBytes / 2
	// maxReads bounds the objects that one answer to Leaves looks at. It is well
	// above PartDigests, so that one that looked at as many has found some that
	// the receiver doesn't hold, or has come to the end of a part.
	maxReads = 4 * PartDigests
	// ShortWidth is the least that travels of a digest, and what does of those
	// that are listed first. The receiver asks for more where more are compared
	// (widthFor), of MaxShortWidth bytes at most, or for whole digests.
	ShortWidth    = 3
	MaxShortWidth = 8
	// chanceBits is how unlikely it is, as a power of two, that two digests of one
	// level meet by chance where as much has changed as widthFor is told; the
	// root shows it then, and the descent is repeated. Digests of ShortWidth have
	// shortChanceBits: they are for small descents, to which a repetition would be
	// as much again.
	chanceBits      = 10
	shortChanceBits = 14
	// fanOut is how many children a node has on average.
	fanOut = 32
	// MatchWidth is how many bytes of a digest a publisher sends to learn which
	// of its objects differ. No root shows a collision there, so there are
	// enough for none to come about.
	MatchWidth = 8
	// growthFactor, growthObjects and growthBytes bound what a round brings: so
	// many times what its head counts, and as much again as a small set may well
	// grow by meanwhile.
	growthFactor  = 2
	growthObjects = 1 << 20
	growthBytes   = 128 << 20
	// maxCodecs bounds the frames that a Codec works on at once, and so its memory.
	// One encodes 400 MB/s (BenchmarkEncodeFrame), so that by two at once, however
	// many CPUs there are, a server's pulls of all agents would share 800.
	maxCodecs = 8
	// maxRounds bounds the rounds of one pull, after which it is an error: each
	// ended with a set that had moved or a root that did not verify.
	maxRounds = 16
)
