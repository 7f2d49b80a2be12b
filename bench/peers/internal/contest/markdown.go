package contest

import (
	"fmt"
	"math"
	"strings"
	"time"

	"espalier/bench/peers/internal/peer"
	"espalier/bench/peers/internal/workload"
)

const tableHead = `| what | whose | bytes both ways | over payload | time | server's CPU | server's peak memory; its own | round trips | both ends the same |
|---|---|---|---|---|---|---|---|---|
`

// Markdown returns the report as a document with one table.
func (r Report) Markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Against others\n\n")
	fmt.Fprintf(&b, "%s objects of %d B keys and %d B values that don't compress, %s in all; changes are 80%% updates, 10%% inserts, 10%% deletes; seed %d; %s.\n",
		grouped(float64(r.Objects)), workload.KeyBytes, workload.ValueBytes, size(float64(r.Payload)), r.Seed, r.Date)
	fmt.Fprintf(&b, "The machine: %d cores of %q, %s, Linux %s, Go %s; everything over its loopback.\n",
		r.Machine.Cores, r.Machine.CPU, size(float64(r.Machine.Memory)), r.Machine.Kernel, r.Machine.Go)
	fmt.Fprintf(&b, "Medians of %d, with the lowest and the highest where they differ by more than 2%%; of what takes long there are fewer, and the row says of how many it is. "+
		"Bytes are counted on the TCP connection by a proxy, the same for all. "+
		"Times are from when a change is published, or a client connects, until the client has it. "+
		"CPU and memory are those of the server's process; what is its own is not pages of files, which the system can drop. \"Nothing happens\" is watched for %v. "+
		"\"The same\" holds every object of the client's copy against what was published.\n\n",
		r.Runs, time.Duration(r.IdleSeconds*float64(time.Second)))
	for _, s := range r.Servers {
		fmt.Fprintf(&b, "- %s\n", s.line())
	}
	b.WriteString("\n" + tableHead)
	last := ""
	for _, row := range r.sorted() {
		title := row.title()
		if title == last {
			title = ""
		} else {
			last = title
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", title, row.whose(r.Runs), strings.Join(row.cells(), " | "))
	}
	return b.String()
}

func (s Server) line() string {
	line := fmt.Sprintf("**%s** %s: %s", s.Name, s.Version, s.Keeps)
	switch {
	case s.Skipped != "":
		return line + "; not measured: " + s.Skipped
	case s.Failed != "":
		return line + "; failed: " + s.Failed
	}
	return line + fmt.Sprintf("; loaded in %s; peak memory of the server %s, %s of it its own", seconds(s.LoadSeconds), memory(s.PeakResident), memory(s.PeakOwn))
}

// title says what is measured.
func (r Row) title() string {
	changes := "1 change"
	if r.Changes != 1 {
		changes = fmt.Sprintf("%s changes, %s", grouped(float64(r.Changes)), r.Shape)
	}
	switch r.Scenario {
	case peer.First:
		return "first sync"
	case peer.Warm:
		return "connected and up to date, then " + changes
	case peer.Gone:
		return "back after " + changes + ", no history"
	case peer.Resume:
		return "back after " + changes + ", with history"
	case peer.Nothing:
		return "back, nothing changed"
	case peer.Idle:
		return "connected, nothing happens"
	default:
		return "one check on a connection"
	}
}

func (r Row) whose(runs int) string {
	name := r.Server + ", " + r.Way
	if r.Server == "Espalier" {
		name = "**" + name + "**"
	}
	if r.Runs < runs && r.Scenario != peer.Idle {
		name += fmt.Sprintf(" (of %d)", r.Runs)
	}
	return name
}

func (r Row) cells() []string {
	over := "–"
	if r.Payload > 0 {
		over = fmt.Sprintf("%.3g ×", r.Bytes.Median/float64(r.Payload))
		if ratio := r.Bytes.Median / float64(r.Payload); ratio >= 1000 {
			over = grouped(ratio) + " ×"
		}
	}
	trips := "–"
	if r.RoundTrips > 0 {
		trips = grouped(float64(r.RoundTrips))
	}
	same := "yes"
	if r.Wrong != nil {
		same = r.Wrong.String()
	}
	took := spread(r.Seconds, seconds)
	if r.Scenario == peer.Idle {
		took = "–"
	}
	return []string{spread(r.Bytes, size), over, took, spread(r.ServerCPU, cpu), memory(r.PeakResident) + "; " + memory(r.PeakOwn), trips, same}
}

func (r Row) brief() string { return strings.Join(r.cells(), ", ") }

// spread writes a median, and its spread if that is worth it.
func spread(s Stat, write func(float64) string) string {
	text := write(s.Median)
	low, high := write(s.Low), write(s.High)
	if s.High-s.Low <= 0.02*s.Median || low == high {
		return text
	}
	return fmt.Sprintf("%s (%s to %s)", text, low, high)
}

func size(n float64) string {
	switch {
	case n < 10_000:
		return grouped(n) + " B"
	case n < 1e6:
		return fmt.Sprintf("%.1f KB", n/1e3)
	case n < 1e9:
		return fmt.Sprintf("%.*f MB", digits(n/1e6), n/1e6)
	default:
		return fmt.Sprintf("%.2f GB", n/1e9)
	}
}

func memory(n uint64) string { return fmt.Sprintf("%.0f MiB", float64(n)/(1<<20)) }

func digits(n float64) int {
	if n < 10 {
		return 2
	}
	return 1
}

func seconds(s float64) string {
	switch {
	case s < 1e-3:
		return fmt.Sprintf("%.0f µs", s*1e6)
	case s < 1:
		return fmt.Sprintf("%.*f ms", digits(s*1e3), s*1e3)
	default:
		return fmt.Sprintf("%.*f s", digits(s), s)
	}
}

// cpu writes what is measured in steps of 10 ms, or is an average of many.
func cpu(s float64) string {
	switch {
	case s == 0:
		return "< 10 ms"
	case s < 1e-3:
		return fmt.Sprintf("%.0f µs", s*1e6)
	case s < 1:
		return fmt.Sprintf("%.0f ms", s*1e3)
	default:
		return fmt.Sprintf("%.1f s", s)
	}
}

// grouped writes a whole number with its thousands apart.
func grouped(n float64) string {
	if n = math.Round(n); n < 1000 {
		return fmt.Sprintf("%.0f", n)
	}
	return fmt.Sprintf("%s,%03.0f", grouped(math.Floor(n/1000)), math.Mod(n, 1000))
}
