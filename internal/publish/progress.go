package publish

// Phase is a part of the work, in the words that a progress bar uses.
type Phase string

// The phases, in their order.
const (
	PhaseRead    Phase = "reading"
	PhaseCompare Phase = "comparing" // what was sent to be compared, or was found to differ
	PhaseUpload  Phase = "uploading"
	PhaseCommit  Phase = "committing" // the server has everything, and works
)

// Unit returns the word for what is counted in the phase; empty: nothing is, and
// one can only wait.
func (p Phase) Unit() string {
	switch p {
	case PhaseRead:
		return "bytes"
	case PhaseCommit:
		return ""
	default:
		return "objects"
	}
}

// Progress is told how far the work has come; total is 0 where it is not known.
// It is called from one goroutine at a time, often, and should return soon.
type Progress func(phase Phase, done, total uint64)

func (p Progress) report(phase Phase, done, total uint64) {
	if p != nil {
		p(phase, done, total)
	}
}
