package wire

import (
	"fmt"
	"math"
	"time"

	"espalier/internal/desired"
	espalierv1 "espalier/proto/espalier/v1"
)

func convergenceToWire(c *desired.Convergence) *espalierv1.Convergence {
	if c == nil {
		return nil
	}
	m := &espalierv1.Convergence{
		State: espalierv1.Convergence_State(c.State), Reason: c.Reason,
		Objects: c.Objects, Pending: c.Pending, Failed: c.Failed, Unmanaged: c.Unmanaged, Drifted: c.Drifted,
		Found: c.Found, Corrected: c.Corrected, Guarded: c.Guarded,
		WaitedUs: micros(c.Stages.Waited), TransferredUs: micros(c.Stages.Transferred), AppliedUs: micros(c.Stages.Applied),
	}
	if !c.Desired.IsZero() {
		m.Desired = c.Desired[:]
	}
	if c.Applied != c.Desired {
		m.Applied = c.Applied[:]
	}
	if c.Observed != c.Desired {
		m.Observed = c.Observed[:]
	}
	for _, f := range c.Failures {
		m.Failures = append(m.Failures, &espalierv1.Failure{
			Key: f.Key, Error: f.Error, Attempts: f.Attempts, SinceMs: instantToWire(f.Since), NextMs: instantToWire(f.Next),
		})
	}
	return m
}

// convergenceFromWire reads how far a host is, within its bounds; nil: it didn't
// say.
func convergenceFromWire(m *espalierv1.Convergence) (*desired.Convergence, error) {
	if m == nil {
		return nil, nil
	}
	c := desired.Convergence{
		State: desired.State(m.GetState()), Reason: m.GetReason(),
		Objects: m.GetObjects(), Pending: m.GetPending(), Failed: m.GetFailed(), Unmanaged: m.GetUnmanaged(), Drifted: m.GetDrifted(),
		Found: m.GetFound(), Corrected: m.GetCorrected(), Guarded: m.GetGuarded(),
		Stages: desired.Stages{
			Waited: microsFromWire(m.GetWaitedUs()), Transferred: microsFromWire(m.GetTransferredUs()), Applied: microsFromWire(m.GetAppliedUs()),
		},
	}
	var err error
	if c.Desired, err = DigestFromWire(m.GetDesired()); err != nil {
		return nil, err
	}
	if c.Applied, err = digestOr(m.GetApplied(), c.Desired); err != nil {
		return nil, err
	}
	if c.Observed, err = digestOr(m.GetObserved(), c.Desired); err != nil {
		return nil, err
	}
	if n := len(m.GetFailures()); n > desired.MaxFailures {
		return nil, fmt.Errorf("%w report: %d failures, at most %d are allowed", desired.ErrInvalid, n, desired.MaxFailures)
	}
	for _, f := range m.GetFailures() {
		c.Failures = append(c.Failures, desired.Failure{
			Key: f.GetKey(), Error: f.GetError(), Attempts: f.GetAttempts(), Since: instantFromWire(f.GetSinceMs()), Next: instantFromWire(f.GetNextMs()),
		})
	}
	c = c.Bounded()
	return &c, nil
}

// digestOr is DigestFromWire of one that stands for another where it is absent.
func digestOr(b []byte, absent desired.Digest) (desired.Digest, error) {
	if len(b) == 0 {
		return absent, nil
	}
	return DigestFromWire(b)
}

// micros returns d as a message has it.
func micros(d time.Duration) uint64 { return uint64(max(d.Microseconds(), 0)) }

func microsFromWire(us uint64) time.Duration {
	return time.Duration(min(us, uint64(desired.MaxStage.Microseconds()))) * time.Microsecond
}

func instantToWire(t time.Time) uint64 { return uint64(max(t.UnixMilli(), 0)) }

// instantFromWire returns the time, unchecked; 0: none.
func instantFromWire(ms uint64) time.Time {
	if ms == 0 || ms > math.MaxInt64 {
		return time.Time{}
	}
	return time.UnixMilli(int64(ms))
}
