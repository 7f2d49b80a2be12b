package contest

import (
	"cmp"
	"fmt"
	"slices"

	"espalier/bench/peers/internal/meter"
	"espalier/bench/peers/internal/peer"
	"espalier/bench/peers/internal/workload"
)

// Report is the outcome of Run.
type Report struct {
	Machine     Machine  `json:"machine"`
	Date        string   `json:"date"`
	Objects     int      `json:"objects"`
	Payload     int      `json:"payload_bytes"` // of all objects
	Seed        uint64   `json:"seed"`
	Runs        int      `json:"runs"`
	IdleSeconds float64  `json:"idle_seconds"`
	Servers     []Server `json:"servers"`
	Rows        []Row    `json:"rows"`
}

// Server is a server that was measured, or why it wasn't.
type Server struct {
	Name        string  `json:"name"`
	Version     string  `json:"version"`
	Keeps       string  `json:"keeps"`
	LoadSeconds float64 `json:"load_seconds"`
	// Of its process in all that was measured, resident, and what of that was not
	// pages of files.
	PeakResident uint64 `json:"peak_resident_bytes"`
	PeakOwn      uint64 `json:"peak_own_bytes"`
	Skipped      string `json:"skipped,omitempty"`
	Failed       string `json:"failed,omitempty"`
}

// Row is what one way of one server took in one scenario.
type Row struct {
	Server    string         `json:"server"`
	Way       string         `json:"way"`
	Scenario  peer.Scenario  `json:"scenario"`
	Changes   int            `json:"changes"`
	Shape     workload.Shape `json:"shape,omitempty"`
	Payload   int            `json:"payload_bytes"` // of what changed, the median
	Runs      int            `json:"runs"`
	Bytes     Stat           `json:"bytes"` // both ways
	Up        Stat           `json:"bytes_up"`
	Down      Stat           `json:"bytes_down"`
	Seconds   Stat           `json:"seconds"`
	ServerCPU Stat           `json:"server_cpu_seconds"`
	// Of the server's process: resident, and what of that was not pages of files.
	PeakResident uint64 `json:"server_peak_resident_bytes"`
	PeakOwn      uint64 `json:"server_peak_own_bytes"`
	RoundTrips   int    `json:"round_trips,omitempty"` // 0: not known
	// Wrong says how the copy differed from what the server has, in the worst of
	// the runs; nil: it didn't.
	Wrong *workload.Verdict `json:"wrong,omitempty"`
	// Known says that it is known that the copy goes wrong.
	Known bool `json:"wrong_is_known,omitempty"`
}

// Stat is the median of the runs and their spread.
type Stat struct {
	Median float64 `json:"median"`
	Low    float64 `json:"low"`
	High   float64 `json:"high"`
}

// statOf returns that of a figure of the samples.
func statOf(samples []sample, figure func(sample) float64) Stat {
	all := make([]float64, len(samples))
	for i, s := range samples {
		all[i] = figure(s)
	}
	slices.Sort(all)
	middle := (all[(len(all)-1)/2] + all[len(all)/2]) / 2
	return Stat{Median: middle, Low: all[0], High: all[len(all)-1]}
}

// sample is one measurement.
type sample struct {
	up, down, cpu, seconds float64
	payload                int
	peak                   meter.Memory
	trips                  int
	verdict                workload.Verdict
}

// per returns the sample of one of n that were measured together.
func (s sample) per(n int) sample {
	s.up, s.down, s.cpu, s.seconds = s.up/float64(n), s.down/float64(n), s.cpu/float64(n), s.seconds/float64(n)
	return s
}

// fill makes a row of its samples, of which there is at least one.
func (r *Row) fill(samples []sample) {
	r.Runs = len(samples)
	r.Bytes = statOf(samples, func(s sample) float64 { return s.up + s.down })
	r.Up = statOf(samples, func(s sample) float64 { return s.up })
	r.Down = statOf(samples, func(s sample) float64 { return s.down })
	r.Seconds = statOf(samples, func(s sample) float64 { return s.seconds })
	r.ServerCPU = statOf(samples, func(s sample) float64 { return s.cpu })
	r.Payload = int(statOf(samples, func(s sample) float64 { return float64(s.payload) }).Median)
	r.RoundTrips = int(statOf(samples, func(s sample) float64 { return float64(s.trips) }).Median)
	for _, s := range samples {
		r.PeakResident, r.PeakOwn = max(r.PeakResident, s.peak.Resident), max(r.PeakOwn, s.peak.Own)
		if v := s.verdict; !v.Same() && (r.Wrong == nil || weight(v) > weight(*r.Wrong)) {
			r.Wrong = &v
		}
	}
}

// Keep takes over from an earlier report what this one has not measured, if both
// are of the same work on the same machine.
func (r *Report) Keep(earlier Report) error {
	if r.Machine != earlier.Machine || r.Objects != earlier.Objects || r.Seed != earlier.Seed || r.IdleSeconds != earlier.IdleSeconds {
		return fmt.Errorf("the earlier report is of %d objects, seed %d, on %s: not of this work on this machine",
			earlier.Objects, earlier.Seed, earlier.Machine.CPU)
	}
	for i, s := range earlier.Servers {
		if slices.ContainsFunc(r.Servers, func(now Server) bool { return now.Name == s.Name }) {
			continue
		}
		r.Servers = slices.Insert(r.Servers, min(i, len(r.Servers)), s)
		for _, row := range earlier.Rows {
			if row.Server == s.Name {
				r.Rows = append(r.Rows, row)
			}
		}
	}
	return nil
}

func weight(v workload.Verdict) int { return v.Missing + v.Stale + v.Kept }

// Failed reports whether something could not be measured, or a copy was wrong of
// which that was not known.
func (r Report) Failed() bool {
	return slices.ContainsFunc(r.Servers, func(s Server) bool { return s.Failed != "" }) ||
		slices.ContainsFunc(r.Rows, func(row Row) bool { return row.Wrong != nil && !row.Known })
}

// scenarioOrder is that of the table.
var scenarioOrder = []peer.Scenario{peer.Warm, peer.Gone, peer.Resume, peer.First, peer.Nothing, peer.Idle, peer.Check}

// sorted returns the rows as the table has them: what is measured alike stands
// together, the fewest bytes first.
func (r Report) sorted() []Row {
	return slices.SortedStableFunc(slices.Values(r.Rows), func(a, b Row) int {
		return cmp.Or(
			cmp.Compare(slices.Index(scenarioOrder, a.Scenario), slices.Index(scenarioOrder, b.Scenario)),
			cmp.Compare(a.Changes, b.Changes), -cmp.Compare(a.Shape, b.Shape), cmp.Compare(a.Bytes.Median, b.Bytes.Median))
	})
}
