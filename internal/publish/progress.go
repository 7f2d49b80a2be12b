package publish

// Phase is a part of the work, in the words that a progress bar uses.
type Phase string

// The phases, in their order, with what they count.
const (
	PhaseRead    Phase = "reading"    // bytes of the input
	PhaseCompare Phase = "comparing"  // objects that were sent to be compared, or were found to differ
	PhaseUpload  Phase = "uploading"  // objects
	PhaseCommit  Phase = "committing" // nothing: the server has everything, and works
)

// Progress is told how far the work has come; total is 0 where it is not known.
// It is called from one goroutine at a time, often, and should return soon.
type Progress func(phase Phase, done, total uint64)

func (p Progress) report(phase Phase, done, total uint64) {
	if p != nil {
		p(phase, done, total)
	}
}
