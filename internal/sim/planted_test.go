package sim_test

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// ciSeeds is how many seeds CI runs; see make sim.
const ciSeeds = 10_000

// planted are bugs that the simulator has to find: in a file, in place of a text
// that occurs in it once, another.
var planted = []struct{ what, file, text, instead string }{
	// What a host decides.
	{
		"a host follows any server", "internal/follow/sync.go",
		"case floor.Number == 0, head.Revision == floor, head.Follows(floor):", "case true:",
	},
	{
		"a host takes an older list of sets", "internal/follow/list.go",
		"case next.Version < is.Version:", "case false:",
	},
	{
		"a host doesn't keep its list of sets", "internal/follow/list.go",
		"err = f.options.Disk.WriteList(next)", "err = nil",
	},
	{
		"a set that has left stays", "internal/follow/list.go",
		"if err := s.Remove(); err != nil {", "if err := error(nil); err != nil {",
	},
	{
		"what a broken pull has staged is not gone on with", "internal/follow/keeper.go",
		"have.Mark = &mark", "_ = mark",
	},
	{
		"what is not staged is not forgotten with what it was based on", "internal/follow/keeper.go",
		"if e.Forget {", "if false {",
	},
	{
		"of two changes to a key the earlier wins", "internal/follow/keeper.go",
		"if i+1 < len(changes) && bytes.Equal(c.Key, changes[i+1].Key) {", "if i > 0 && bytes.Equal(c.Key, changes[i-1].Key) {",
	},
	{
		"the last change received is not staged", "internal/follow/keeper.go",
		"if len(k.pending) > 0 {", "if len(k.pending) > 1 {",
	},
	{
		"a descent compares the mirror, and mends the staging", "internal/follow/keeper.go",
		"view = k.staging.View", "_ = k.staging.View",
	},

	// What the orchestrator decides.
	{
		"hosts may poll any set", "internal/lead/lead.go",
		"if who.MayUse(h.Name) {", "if true {",
	},
	{
		"a change wakes nobody", "internal/lead/hold.go",
		"l.wake(set)", "",
	},
	{
		"a fork is overlooked", "internal/lead/lead.go",
		"if forked {", "if forked && false {",
	},
	{
		"a delta is said to lead one revision on", "internal/lead/lead.go",
		"Status: wire.StatusDelta, Number: head.Number,", "Status: wire.StatusDelta, Number: held.Number + 1,",
	},
	{
		"a host may have what has left its list", "internal/fleet/fleet.go",
		"return slices.Contains(e.List.Sets, set)", "return slices.Contains(slices.Concat(e.List.Sets, e.List.Left), set)",
	},
	{
		"a host that is behind isn't told of its list", "internal/fleet/fleet.go",
		"return ListBehind\n", "return ListCurrent\n",
	},
	{
		"a list's version is given twice", "internal/fleet/fleet.go",
		"return e.List, min(e.ListVersion, e.List.Version+maxLead), odd, nil", "return e.List, 0, odd, nil",
	},
	{
		"a new list of sets takes back what a host was told", "internal/desired/list.go",
		"Sets: slices.Clone(sets), Orders: l.Orders}", "Sets: slices.Clone(sets)}",
	},
	{
		"a host isn't told to pause", "internal/wire/host.go",
		"Paused: m.GetPaused()", "Paused: false",
	},

	// What they say to each other.
	{
		"a delta from the wrong base", "internal/delta/receiver.go",
		"Since, r.through, nil, desired.Revision{}", "Since, head.Revision, nil, desired.Revision{}",
	},
	{
		"a history that is known is not made use of", "internal/delta/sender.go",
		"src.Touched(base.Number, limit)", "src.Touched(min(base.Number+1, head.Number), limit)",
	},
	{
		"a full pull sends the last object of a frame again", "internal/delta/sender.go",
		"s.from = successor(s.frame.last)", "s.from = bytes.Clone(s.frame.last)",
	},
	{
		"a set that moved during a pull counts as unmoved", "internal/delta/sender.go",
		"if head := src.Head(); head.Revision != s.first.Revision {", "if head := src.Head(); false {",
	},
	{
		"a mixture is taken for a revision", "internal/delta/receiver.go",
		"if r.through == head.Revision {", "if true {",
	},
	{
		"what came before a break counts as of the head after it", "internal/delta/receiver.go",
		"if r.after == nil { // else part", "if true { // else part",
	},
	{
		"a mark forgets how far a pull had come", "internal/delta/receiver.go",
		"Through: r.through, After: r.after}", "Through: r.through}",
	},
	{
		"a frame is received again after a break", "internal/delta/receiver.go",
		"r.after = changes[len(changes)-1].Key", "r.after = changes[0].Key",
	},
	{
		"a descent deletes the object beside the one that is gone", "internal/delta/receiver_leaves.go",
		"i += 1 + r.uvarint(PartDigests)", "i += max(1, r.uvarint(PartDigests))",
	},
	{
		"a descent says that what is the same is gone", "internal/delta/sender_leaves.go",
		"l.gone[i] = false", "l.gone[i] = i > 0",
	},

	// The tree.
	{
		"a node that was joined with the one before stays", "merkle/update.go",
		"u.rows = append(u.rows, RowChange{Level: u.level, Row: Row{Key: c.Key}, Gone: true})", "",
	},
	{
		"a tree that gets lower keeps its old root", "merkle/update.go",
		"for level := u.level + 1; level <= u.height; level++ {", "for level := u.level + 2; level <= u.height; level++ {",
	},
	{
		"a level with two nodes is taken for the root's", "merkle/update.go",
		"others > 0 {", "others > 1 {",
	},

	// The disks.
	{
		"a commit is acknowledged before it is synced", "internal/sim/memory/sets.go",
		"if err := s.disk.replace(setPrefix+string(name), f); err != nil {", "if err := s.disk.put(setPrefix+string(name), f); err != nil {",
	},
	{
		"a mirror adopts what has another root", "internal/sim/memory/mirror.go",
		"if next.root != head.Root {", "if false {",
	},
	{
		"a floor is not kept", "internal/sim/memory/mirror.go",
		"if !m.floorDue {", "if true {",
	},
	{
		"a mirror that was promoted is not synced", "internal/sim/memory/staging.go",
		"if err := m.disk.sync(mirrorPrefix + m.name); err != nil {", "if err := error(nil); err != nil {",
	},
	{
		"changes are staged without their mark", "internal/sim/memory/staging.go",
		"mark: slices.Clone(mark)}", "mark: slices.Clone(f.mark)}",
	},
	{
		"the journal is off by one", "internal/sim/memory/content.go",
		"s.journal[i+1:]", "s.journal[min(i+2, len(s.journal)):]",
	},
	{
		"a deleted set's epoch is not retired", "internal/sim/memory/sets.go",
		"if err := s.disk.replace(lineagePrefix+string(name), f.epochs()); err != nil {", "if err := s.disk.erase(lineagePrefix + string(name)); err != nil {",
	},
	{
		"a request that comes again is another", "internal/sim/memory/sets.go",
		"if r.ID == \"\" || old.ID != r.ID {", "if true {",
	},
	{
		"an epoch begins with a number that was there", "internal/sim/memory/sets.go",
		"h.Number++\n\tbinary", "binary",
	},
	{
		"nobody looks at what a bit has flipped in", "internal/sim/memory/content.go",
		"if o.flipped {\n\t\t\treturn", "if false {\n\t\t\treturn",
	},
}

// TestPlanted compiles each bug into a simulator of its own, which has to find it.
func TestPlanted(t *testing.T) {
	if testing.Short() || raced {
		t.Skip("it compiles some 40 programs: see make planted")
	}
	two := make(chan bool, 2) // at a time
	for i := range planted {
		bug := &planted[i]
		t.Run(bug.what, func(t *testing.T) {
			t.Parallel()
			two <- true
			defer func() { <-two }()
			program, err := plant(t.TempDir(), bug.file, bug.text, bug.instead)
			if err != nil {
				t.Fatal(err)
			}
			find(t, program)
		})
	}
}

// find lets a simulator with a bug in it find that.
func find(t *testing.T, program string) {
	run := exec.Command(program, "-test.run=^TestSeeds$", "-brief", "-seeds", strconv.Itoa(ciSeeds))
	run.Env = append(os.Environ(), "GOMAXPROCS=1") // two run at once
	out, err := run.CombinedOutput()
	if exit := new(exec.ExitError); err == nil || !errors.As(err, &exit) {
		t.Fatalf("not found (%v)", err)
	}
	for line := range strings.Lines(string(out)) {
		if _, found, ok := strings.Cut(line, "_test.go:"); ok {
			_, found, _ = strings.Cut(found, ": ")
			t.Logf("%.200s", strings.TrimSpace(found))
			return
		}
	}
	t.Errorf("it ended with %v, and no seed that it blames:\n%s", err, out)
}

// plant compiles the simulator with another text in a file, and returns the
// program.
func plant(dir, file, text, instead string) (string, error) {
	path, err := filepath.Abs(filepath.Join("../..", file))
	if err != nil {
		return "", err
	}
	source, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	if n := strings.Count(string(source), text); n != 1 {
		return "", errors.New(strconv.Quote(text) + " occurs " + strconv.Itoa(n) + " times in " + file + ": the table of planted bugs has to follow")
	}
	changed, overlay, program := filepath.Join(dir, "changed.go"), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "sim.test")
	replace, err := json.Marshal(map[string]any{"Replace": map[string]string{path: changed}})
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(changed, []byte(strings.Replace(string(source), text, instead, 1)), 0o600); err != nil {
		return "", err
	}
	if err := os.WriteFile(overlay, replace, 0o600); err != nil {
		return "", err
	}
	out, err := exec.Command("go", "test", "-c", "-vet=off", "-overlay", overlay, "-o", program, ".").CombinedOutput()
	if err != nil {
		return "", errors.New(err.Error() + "\n" + string(out))
	}
	return program, nil
}
