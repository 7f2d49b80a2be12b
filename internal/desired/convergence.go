package desired

import (
	"encoding/json"
	"math"
	"slices"
	"time"
)

// State is what a host does about making true what it mirrors.
type State int

// The states; their numbers are those of the wire.
const (
	Applying  State = 0 // there is something to do, and it is being done
	Converged State = 1 // what it mirrors is what it made true and what it saw last
	Waiting   State = 2 // for the next attempts at what has failed, and at what comes after that
	Paused    State = 3 // by an operator
	Detecting State = 4 // it only reports what it would do
	Guarded   State = 5 // too many objects would be deleted: an operator has to release that
	Closed    State = 6 // it is outside of its windows
)

var stateNames = [...]string{"applying", "converged", "waiting", "paused", "detecting", "guarded", "closed"}

// String returns the name of s, or "unknown" for a state of another version.
func (s State) String() string {
	if s < 0 || int(s) >= len(stateNames) {
		return "unknown"
	}
	return stateNames[s]
}

// MarshalText implements encoding.TextMarshaler.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler. A name of another version is
// no error: it becomes a state that is none of the above.
func (s *State) UnmarshalText(text []byte) error {
	if *s = State(slices.Index(stateNames[:], string(text))); *s < 0 {
		*s = State(len(stateNames))
	}
	return nil
}

// Convergence is how far a host is with making true what it mirrors.
type Convergence struct {
	// Desired, Applied and Observed are the host's roots, each as HostRoot has it, of
	// what it mirrors, of what it has made true of that, and of what it saw last.
	// All the same: it has converged.
	Desired  Digest `json:"desired"`
	Applied  Digest `json:"applied"`
	Observed Digest `json:"observed"`
	State    State  `json:"state"`
	// Reason says for people why it is in that state; at most MaxReasonBytes.
	Reason string `json:"reason,omitempty"`
	// Objects are what shall be true. Of those Pending are not yet, be it that they
	// wait for others; Failed were tried and failed, and are tried again. Unmanaged
	// are no driver's. Drifted are otherwise than they were made, and not corrected.
	Objects   uint64 `json:"objects"`
	Pending   uint64 `json:"pending"`
	Failed    uint64 `json:"failed"`
	Unmanaged uint64 `json:"unmanaged"`
	Drifted   uint64 `json:"drifted"`
	// Found and Corrected count drift since the agent started.
	Found     uint64 `json:"drift_found"`
	Corrected uint64 `json:"drift_corrected"`
	// Guarded are the deletions that wait for an operator to release Desired.
	Guarded uint64 `json:"guarded"`
	// Failures are the first of what has failed, by key; at most MaxFailures.
	Failures []Failure `json:"failures,omitempty"`
	// Stages say what the latest change that was made true took.
	Stages Stages `json:"stages,omitzero"`
}

// Failure is an object that could not be made true.
type Failure struct {
	// Key is the object's, cut to MaxFailureBytes.
	Key string `json:"key"`
	// Error says why, what to do included; at most MaxFailureBytes.
	Error    string `json:"error"`
	Attempts uint32 `json:"attempts"`
	// Since is when it first failed, and Next when it is tried again, by the host's
	// clock, in whole milliseconds; zero: that is not known.
	Since time.Time `json:"since,omitzero"`
	Next  time.Time `json:"next,omitzero"`
}

// Stages are the times that a change took on its way, each in whole microseconds;
// 0: that is not known.
type Stages struct {
	// Waited is from the commit to the answer that told the host of it, Transferred
	// what receiving and proving it took, and Applied making it true.
	Waited, Transferred, Applied time.Duration
}

// More returns how many have failed that Failures doesn't name.
func (c Convergence) More() uint64 { return c.Failed - min(c.Failed, uint64(len(c.Failures))) }

// Telling reports whether c says of a host what an operator waits for, compared
// with what was told before, nil: nothing. Mere progress is not of that kind; that
// it has converged on something else is.
func (c Convergence) Telling(told *Convergence) bool {
	return told == nil || c.State != told.State || c.Failed != told.Failed || c.Guarded != told.Guarded ||
		c.State == Converged && c.Desired != told.Desired
}

// Bounded returns c within its bounds, its texts cut and of valid UTF-8.
func (c Convergence) Bounded() Convergence {
	c.Reason = Cut(c.Reason, MaxReasonBytes)
	c.Failed = max(c.Failed, uint64(len(c.Failures)))
	c.Failures = slices.Clone(c.Failures[:min(len(c.Failures), MaxFailures)])
	for i := range c.Failures {
		f := &c.Failures[i]
		f.Key, f.Error = Cut(f.Key, MaxFailureBytes), Cut(f.Error, MaxFailureBytes)
		f.Since, f.Next = instant(f.Since), instant(f.Next)
	}
	c.Stages = Stages{duration(c.Stages.Waited), duration(c.Stages.Transferred), duration(c.Stages.Applied)}
	return c
}

// Equal reports whether both say the same.
func (c Convergence) Equal(o Convergence) bool {
	return c.Desired == o.Desired && c.Applied == o.Applied && c.Observed == o.Observed && c.State == o.State && c.Reason == o.Reason &&
		c.Objects == o.Objects && c.Pending == o.Pending && c.Failed == o.Failed && c.Unmanaged == o.Unmanaged && c.Drifted == o.Drifted &&
		c.Found == o.Found && c.Corrected == o.Corrected && c.Guarded == o.Guarded && c.Stages == o.Stages &&
		slices.EqualFunc(c.Failures, o.Failures, Failure.equal)
}

func (f Failure) equal(o Failure) bool {
	return f.Key == o.Key && f.Error == o.Error && f.Attempts == o.Attempts && f.Since.Equal(o.Since) && f.Next.Equal(o.Next)
}

// instant returns t in whole milliseconds, zero unless it is after 1970 and before
// the year 10000, which is as far as JSON goes.
func instant(t time.Time) time.Time {
	if t.UnixMilli() <= 0 || t.UTC().Year() > 9999 {
		return time.Time{}
	}
	return time.UnixMilli(t.UnixMilli()).UTC()
}

// duration returns d in whole microseconds, from 0 to MaxStage.
func duration(d time.Duration) time.Duration {
	return min(max(d, 0), MaxStage).Truncate(time.Microsecond)
}

// stagesDocument is Stages for programs.
type stagesDocument struct {
	Waited      float64 `json:"waited_seconds"`
	Transferred float64 `json:"transferred_seconds"`
	Applied     float64 `json:"applied_seconds"`
}

// MarshalJSON implements json.Marshaler: the times are in seconds.
func (s Stages) MarshalJSON() ([]byte, error) {
	return json.Marshal(stagesDocument{s.Waited.Seconds(), s.Transferred.Seconds(), s.Applied.Seconds()})
}

// UnmarshalJSON implements json.Unmarshaler.
func (s *Stages) UnmarshalJSON(b []byte) error {
	var d stagesDocument
	if err := json.Unmarshal(b, &d); err != nil {
		return err
	}
	read := func(seconds float64) time.Duration {
		return duration(time.Duration(math.Round(min(max(seconds, 0), MaxStage.Seconds())*1e6)) * time.Microsecond)
	}
	*s = Stages{read(d.Waited), read(d.Transferred), read(d.Applied)}
	return nil
}
