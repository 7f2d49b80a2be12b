package follow

// Every bound of following, with its reason. Those of messages are in package
// delta.
const (
	// PullAttempts is how often a pull is tried again that brought nothing new.
	PullAttempts = 3
	// maxAsks is how many polls a sync begins with, each of which may bring another
	// list of sets.
	maxAsks = 4

	// adoptChanges and adoptBytes bound what is applied to a mirror in one
	// transaction; more is staged beside it.
	adoptChanges = 16 << 10
	adoptBytes   = 8 << 20
	// stageChanges and stageBytes bound one transaction of a staging: what a
	// cut can cost, and what is held in memory, twice.
	stageChanges = 20_000
	stageBytes   = 8 << 20
)
