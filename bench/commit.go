package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"espalier/store"
)

// CommitOptions says what RunCommit measures.
type CommitOptions struct {
	Size
	// Rounds is how often each kind of commit is made, small ones more often; 0:
	// once.
	Rounds int
	// Large is the size of the set that a small one is compared with for growth;
	// 0: Objects.
	Large    int
	Observer Observer
	// Row is called with each row as soon as it is measured; nil: it is not.
	Row func(CommitRow)
}

// CommitReport is the outcome of RunCommit.
type CommitReport struct {
	Machine
	Size
	Rounds int         `json:"rounds"`
	Rows   []CommitRow `json:"rows"`
	Growth Growth      `json:"growth"`
}

// CommitRow is what one kind of commit takes, each figure a median.
type CommitRow struct {
	Case    string `json:"case"`
	What    string `json:"what"`
	Changed int    `json:"changed"`
	Commits int    `json:"commits"`
	// Store is the commit, Plain the same puts and deletes of the objects' rows
	// alone, in a plain bbolt file that was filled the same way.
	Store CommitCost `json:"store"`
	Plain CommitCost `json:"plain"`
	// PagesRatio is the store's pages by those of plain bbolt, the median over
	// pairs.
	PagesRatio float64 `json:"pages_ratio"`
	// PeakHeap is the most that this process's Go heap held during one commit.
	PeakHeap uint64 `json:"peak_heap_bytes"`
}

// CommitCost is what a commit takes.
type CommitCost struct {
	Seconds    float64 `json:"seconds"`
	CPUSeconds float64 `json:"cpu_seconds"`
	Pages      uint64  `json:"pages"`
	Bytes      uint64  `json:"bytes"`
}

// Growth is a commit of one change to a small set and to a large one.
type Growth struct {
	// InMemory is whether the files were kept in memory, where a sync costs
	// nothing; otherwise the CPU time includes the system's for syncing.
	InMemory bool       `json:"in_memory"`
	Small    GrowthSide `json:"small"`
	Large    GrowthSide `json:"large"`
	// PagesRatio and CPURatio are large by small.
	PagesRatio float64 `json:"pages_ratio"`
	CPURatio   float64 `json:"cpu_ratio"`
}

// GrowthSide is one of the two sets, its figures the medians of its commits.
type GrowthSide struct {
	Objects    int     `json:"objects"`
	Pages      uint64  `json:"pages"`
	CPUSeconds float64 `json:"cpu_seconds"`
}

const (
	// smallObjects is the size of the small set for growth.
	smallObjects = 10_000
	// growthTurns is how often growth goes from one set to the other,
	// growthCommits how many commits it then makes.
	growthTurns   = 21
	growthCommits = 50
	// smallCommits is how many changes make a round worth its name: a round of
	// fewer is that many commits.
	smallCommits = 50
)

// RunCommit commits changes to a made-up set and measures what that takes. It
// returns an error that matches desired.ErrInvalid if the options make no sense.
func RunCommit(ctx context.Context, o CommitOptions) (CommitReport, error) {
	o.Rounds = cmp.Or(o.Rounds, 1)
	o.Large = cmp.Or(o.Large, max(o.Objects, smallObjects))
	report := CommitReport{Machine: thisMachine(), Size: o.Size, Rounds: o.Rounds}
	if err := errors.Join(checkSizes(o.Objects, o.ValueBytes), checkSizes(o.Large, o.ValueBytes), checkRounds(o.Rounds)); err != nil {
		return report, err
	}
	err := inFolder(ctx, "", func(dir string) error {
		s, err := o.openStore(ctx, dir, o.Size)
		if err != nil {
			return err
		}
		p, err := loadPlain(dir, objectRows, s.workload.Objects(ctx, o.progress("loading plain bbolt")))
		o.Observer.finished()
		if err == nil {
			report.Rows, err = o.rows(ctx, s, p)
			err = errors.Join(err, p.remove())
		}
		return errors.Join(err, s.Close())
	})
	if err != nil {
		return report, err
	}
	report.Growth, err = o.growth(ctx)
	return report, err
}

func (o *CommitOptions) progress(what string) func(done, total uint64) {
	return func(done, total uint64) { o.Observer.progress(what, done, total) }
}

// loaded is a store of a workload.
type loaded struct {
	*store.Store
	workload *Workload
}

func (o *CommitOptions) openStore(ctx context.Context, dir string, size Size) (*loaded, error) {
	w, err := NewWorkload(size)
	if err != nil {
		return nil, err
	}
	s, err := store.Open(filepath.Join(dir, fmt.Sprint("store-", size.Objects)), store.Options{Logger: quiet()})
	if err != nil {
		return nil, err
	}
	_, err = s.Commit(ctx, setName, store.Commit{Changes: w.Objects(ctx, o.progress("publishing"))})
	o.Observer.finished()
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return &loaded{Store: s, workload: w}, nil
}

// commit makes a change set of that mix and commits it.
func (s *loaded) commit(ctx context.Context, m Mix) (CommitCost, *ChangeSet, error) {
	changes, err := s.workload.Change(m)
	if err != nil {
		return CommitCost{}, nil, err
	}
	stop := watch()
	r, err := s.Commit(ctx, setName, store.Commit{Changes: changes.Changes()})
	took := stop()
	cost := CommitCost{
		Seconds: took.wall.Seconds(), CPUSeconds: took.cpu.Seconds(), Pages: r.Pages, Bytes: r.BytesWritten,
	}
	if done := r.Created + r.Updated + r.Deleted; err == nil && done != uint64(changes.Len()) {
		err = fmt.Errorf("the commit made %d changes of %d", done, changes.Len())
	}
	return cost, changes, err
}

// rows measures each kind of commit.
func (o *CommitOptions) rows(ctx context.Context, s *loaded, p *plain) ([]CommitRow, error) {
	var rows []CommitRow
	for _, c := range []struct {
		name string
		mix  Mix
	}{
		{"commit-1", MixOf(1)},
		{"commit-100", MixOf(100)},
		{"commit-100-clustered", clustered(100)},
		{"commit-10000", MixOf(10_000)},
		{"commit-10000-clustered", clustered(10_000)},
	} {
		row, err := o.row(ctx, s, p, c.mix.within(o.Objects))
		if err != nil {
			return nil, fmt.Errorf("case %s: %w", c.name, err)
		}
		row.Case = c.name
		rows = append(rows, row)
		if o.Row != nil {
			o.Row(row)
		}
	}
	return rows, nil
}

// row makes commits of one kind, each followed by the same in plain bbolt.
func (o *CommitOptions) row(ctx context.Context, s *loaded, p *plain, m Mix) (CommitRow, error) {
	row := CommitRow{What: m.String(), Changed: m.Count(), Commits: o.Rounds * max(1, smallCommits/m.Count())}
	var ours, theirs []CommitCost
	var ratios []float64
	for i := range row.Commits + 1 {
		if ctx.Err() != nil {
			return row, context.Cause(ctx)
		}
		stop := func() uint64 { return 0 }
		if i == 0 { // watching takes time: the first commit is for that alone
			stop = watchHeap()
		}
		our, changes, err := s.commit(ctx, m)
		row.PeakHeap = max(row.PeakHeap, stop())
		if err != nil {
			return row, err
		}
		their, err := p.put(changes.Changes())
		if err != nil {
			return row, err
		}
		if i > 0 {
			ours, theirs = append(ours, our), append(theirs, their)
			ratios = append(ratios, float64(our.Pages)/float64(their.Pages))
		}
		runtime.GC()
	}
	row.Store, row.Plain, row.PagesRatio = medianCost(ours), medianCost(theirs), median(ratios)
	return row, nil
}

func medianCost(costs []CommitCost) CommitCost {
	return CommitCost{
		Seconds:    medianOf(costs, func(c CommitCost) float64 { return c.Seconds }),
		CPUSeconds: medianOf(costs, func(c CommitCost) float64 { return c.CPUSeconds }),
		Pages:      medianOf(costs, func(c CommitCost) uint64 { return c.Pages }),
		Bytes:      medianOf(costs, func(c CommitCost) uint64 { return c.Bytes }),
	}
}

// growth commits single changes to a small and to a large set, in turns. Its
// files are in memory if there is room, so that CPU time is that of the store.
func (o *CommitOptions) growth(ctx context.Context) (g Growth, err error) {
	parent := memoryFolder(uint64(o.Large) * uint64(o.ValueBytes+keyBytes+100) * 2)
	g.InMemory = parent != ""
	err = inFolder(ctx, parent, func(dir string) error {
		small, large := o.Size, o.Size
		small.Objects, large.Objects = min(smallObjects, o.Large), o.Large
		a, err := o.openStore(ctx, filepath.Join(dir, "small"), small)
		if err != nil {
			return err
		}
		b, err := o.openStore(ctx, filepath.Join(dir, "large"), large)
		if err != nil {
			return errors.Join(err, a.Close())
		}
		err = g.measure(ctx, a, b)
		return errors.Join(err, a.Close(), b.Close())
	})
	return g, err
}

func (g *Growth) measure(ctx context.Context, small, large *loaded) error {
	var costs [2][]CommitCost
	for turn := range 2 * growthTurns {
		runtime.GC()
		side := turn % 2
		for i := range growthCommits {
			cost, _, err := []*loaded{small, large}[side].commit(ctx, MixOf(1))
			if err != nil {
				return err
			}
			if i > 0 { // the first finds its caches cold
				costs[side] = append(costs[side], cost)
			}
		}
	}
	sideOf := func(s *loaded, c []CommitCost) GrowthSide {
		m := medianCost(c)
		return GrowthSide{Objects: s.workload.size.Objects, Pages: m.Pages, CPUSeconds: m.CPUSeconds}
	}
	g.Small, g.Large = sideOf(small, costs[0]), sideOf(large, costs[1])
	g.PagesRatio = float64(g.Large.Pages) / float64(g.Small.Pages)
	g.CPURatio = g.Large.CPUSeconds / g.Small.CPUSeconds
	return nil
}

// memoryFolder returns a folder whose files are in memory and that has room for
// so many bytes; empty: there is none.
func memoryFolder(bytes uint64) string {
	const dir = "/dev/shm"
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil || st.Bavail*uint64(st.Bsize) < bytes {
		return ""
	}
	return dir
}
