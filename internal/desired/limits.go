package desired

import "time"

// Every bound on what a user may put into a set. The bounds of messages and of
// files stand in the limits files of the packages that own those.
const (
	// MaxKeyBytes bounds a key; keys are indexed, compared and kept in memory.
	MaxKeyBytes = 1024
	// MaxValueBytes bounds one object's value.
	MaxValueBytes = 4 << 20
	// MaxNameBytes bounds the name of a set or host: it becomes a file name.
	MaxNameBytes = 253
	// MaxAttributes and MaxAttributeBytes bound an object's attributes: how
	// many there are, and the bytes of one name or one value.
	MaxAttributes     = 64
	MaxAttributeBytes = 4096
	// MaxAfter bounds the keys that an object comes after.
	MaxAfter = 64
	// MaxHeadBytes bounds an encoded envelope without its value; it follows
	// from the bounds above.
	MaxHeadBytes = MaxAttributes*(2*MaxAttributeBytes+6) + MaxAfter*(MaxKeyBytes+3) + 8
	// MaxEnvelopeBytes bounds an encoded envelope.
	MaxEnvelopeBytes = MaxHeadBytes + MaxValueBytes + 8
	// MaxNumber bounds the number of a revision: a commit a nanosecond would take
	// a century to get there.
	MaxNumber = 1 << 62
	// MaxLineage bounds the earlier epochs that a set remembers.
	MaxLineage = 64
	// MaxListSets bounds the sets of one host: each is named in every poll.
	MaxListSets = 64
	// MaxListLeft bounds the sets that a host's list remembers to have left it.
	MaxListLeft = 256
	// MaxProblems and MaxProblemBytes bound a host's report.
	MaxProblems     = 16
	MaxProblemBytes = 512
	// MaxReasonBytes bounds the reason of a host's state, and MaxFailures and
	// MaxFailureBytes what it names of what has failed: a report goes with polls,
	// and is kept in memory for each host.
	MaxReasonBytes  = 256
	MaxFailures     = 16
	MaxFailureBytes = 256
	// MaxStage bounds what a stage of a change is said to have taken.
	MaxStage = 365 * 24 * time.Hour
	// MaxWhyBytes bounds the reason of an order to a host: it is kept with its list.
	MaxWhyBytes = 512
)
