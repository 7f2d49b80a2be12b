package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"espalier/internal/desired"
	"espalier/store"
)

var (
	applyKills = flag.Int("apply.kills", 0, "agents that TestApplyKilled kills; 0: some")
	applySeed  = flag.Uint64("apply.seed", 0, "seed of TestApplyKilled; 0: any")
)

// TestApplyKilled kills agents at random moments of making thousands of files true,
// and of handing objects to a program. Whenever that is, each file is the old one or
// the new one, and nothing is recorded that isn't so. What is recorded is not done
// again; what may have been done is, and the program is told that it may.
func TestApplyKilled(t *testing.T) {
	t.Parallel()
	seed := *applySeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d", seed)
	k := newKilled(t, seed)
	kills := *applyKills
	switch {
	case kills > 0:
	case testing.Short(), raced:
		kills = 4
	default:
		kills = 20
	}
	k.publish()
	begun := time.Now()
	k.run(time.Hour)
	whole := time.Since(begun)
	for k.kills < kills {
		k.publish()
		longest := whole / 2
		for !k.run(time.Duration(k.rng.Int64N(int64(longest)))) {
			longest += longest / 4 // what has been done may have to be looked at anew
			if k.kills++; k.kills == kills {
				longest = 1000 * time.Hour
			}
		}
	}
	t.Logf("%d kills, %d versions of %d files; the program was told %d times of %d objects, %d of which it was told twice",
		k.kills, k.version, k.files, k.told, k.version*k.objects, k.repeats)
}

// killed is a host whose agents are killed. All of its objects have the same version.
type killed struct {
	*managed
	rng            *rand.Rand
	files, objects int // objects are those of the program
	version, kills int

	// What the program was told: the ids of what it was told, by key and version, and
	// the keys that were recorded as done, of the current version.
	ids           map[string]string
	recorded      map[string]bool
	read          int // bytes of the diary
	told, repeats int
}

func newKilled(t *testing.T, seed uint64) *killed {
	k := &killed{rng: rand.New(rand.NewPCG(seed, 0)), files: 10_000, objects: 400, ids: map[string]string{}}
	if testing.Short() || raced {
		k.files, k.objects = 1000, 40
	}
	k.managed = manage(t, files+"  - {prefix: hook/, driver: exec, command: [$DIR/hook, $DIR/diary], batch: 7, parallel: 2}\n")
	hook(t, k.dir)
	return k
}

// object returns a file's object, of a version, which its mode tells, too.
func (k *killed) object(i, version int) desired.Object {
	text := fmt.Sprintf("file %d of version %d\n", i, version)
	return desired.Object{
		Key: fmt.Sprintf("files/%02d/%05d", i%50, i), Value: []byte(strings.Repeat(text, 1+i*7919%150)),
		Attributes: map[string]string{"mode": fmt.Sprintf("06%d0", version%8)},
	}
}

// task returns an object of the program's.
func (k *killed) task(i, version int) desired.Object {
	return desired.Object{Key: fmt.Sprintf("hook/%03d", i), Value: fmt.Append(nil, version)}
}

// all returns all objects of a version.
func (k *killed) all(version int) (all []desired.Object) {
	for i := range k.files {
		all = append(all, k.object(i, version))
	}
	for i := range k.objects {
		all = append(all, k.task(i, version))
	}
	return all
}

// publish publishes the next version.
func (k *killed) publish() {
	k.t.Helper()
	k.version++
	k.recorded = map[string]bool{}
	var lines bytes.Buffer
	e := json.NewEncoder(&lines)
	for _, o := range k.all(k.version) {
		line := struct {
			Key        string            `json:"key"`
			Value      string            `json:"value"`
			Attributes map[string]string `json:"attributes,omitempty"`
		}{o.Key, string(o.Value), o.Attributes}
		if err := e.Encode(line); err != nil {
			k.t.Fatal(err)
		}
	}
	k.managed.publish(lines.String(), "apply", k.name, "-f", "-")
}

// run runs an agent, kills it after a while unless it is done by then, which it
// reports, and looks at what it leaves.
func (k *killed) run(after time.Duration) (done bool) {
	k.t.Helper()
	c := exec.Command(os.Args[0], k.agent("--once", "-o", "json")...)
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Start(); err != nil {
		k.t.Fatal(err)
	}
	timer := time.AfterFunc(after, func() { _ = c.Process.Signal(syscall.SIGKILL) })
	err := c.Wait()
	timer.Stop()
	done = c.ProcessState.ExitCode() >= 0
	if done {
		var o once
		if err != nil || json.Unmarshal(stdout.Bytes(), &o) != nil || !k.isConverged(o.Applying) {
			k.t.Fatalf("version %d, after %d kills: %v\n%s%s", k.version, k.kills, err, stdout.String(), stderr.String())
		}
	}
	k.readDiary()
	k.look(done)
	return done
}

// look holds what is on the host against what was published and recorded.
func (k *killed) look(done bool) {
	k.t.Helper()
	record := k.record()
	present := k.present()
	for _, o := range k.all(k.version) {
		recorded, is := record[o.Key], present[o.Key]
		delete(present, o.Key)
		if done && !recorded {
			k.t.Errorf("%s is done, and not recorded", o.Key)
		}
		if strings.HasPrefix(o.Key, "hook/") {
			k.recorded[o.Key] = recorded
			if recorded && k.ids[told(o.Key, k.version)] == "" {
				k.t.Errorf("%s is recorded, and the program was never told", o.Key)
			}
			continue
		}
		var i int
		_, _ = fmt.Sscanf(filepath.Base(o.Key), "%d", &i)
		switch now, before := fileOf(o), fileOf(k.object(i, k.version-1)); {
		case is == now:
		case recorded:
			k.t.Errorf("%s is recorded as done, and is %.60q", o.Key, is)
		case is == before, is == "" && k.version == 1:
		default:
			k.t.Errorf("%s is %.60q, which is neither version %d nor %d", o.Key, is, k.version-1, k.version)
		}
	}
	if len(present) > 0 && done {
		k.t.Errorf("%d files are there that were not published: %.300v", len(present), present)
	}
	if k.t.Failed() {
		k.t.Fatalf("version %d, after %d kills", k.version, k.kills)
	}
}

// fileOf returns what present has of an object.
func fileOf(o desired.Object) string { return o.Attributes["mode"] + " " + string(o.Value) }

// present returns the files that there are: mode and content by key.
func (k *killed) present() map[string]string {
	k.t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(k.root, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(k.root, path)
		if err != nil {
			return err
		}
		text, err := os.ReadFile(path)
		all["files/"+name] = fmt.Sprintf("%04o %s", info.Mode().Perm(), text)
		return err
	})
	if err != nil {
		k.t.Fatal(err)
	}
	return all
}

// record returns the keys of which the record of the agent, which doesn't run, says
// that they are true as they are now.
func (k *killed) record() map[string]bool {
	k.t.Helper()
	dir := k.t.TempDir() // what the next agent finds is to be the last one's
	text, err := os.ReadFile(filepath.Join(k.data(), "applied.db"))
	if os.IsNotExist(err) {
		return nil
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "applied.db"), text, 0o600)
	}
	if err != nil {
		k.t.Fatal(err)
	}
	r, err := store.OpenApplied(dir, desired.Name(k.name), store.Options{})
	if err != nil {
		k.t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	defer r.Close()
	all := map[string]bool{}
	err = r.View(func(v *store.AppliedView) error {
		for _, o := range k.all(k.version) {
			row, ok, err := v.Row(desired.Name(k.name), []byte(o.Key))
			if err != nil {
				return err
			}
			_, drifted, err := v.Drift([]byte(o.Key))
			if err != nil {
				return err
			}
			all[o.Key] = ok && !drifted && row.State == store.AppliedTrue && row.Digest == digestOf(k.t, o)
		}
		return nil
	})
	if err != nil {
		k.t.Fatal(err)
	}
	return all
}

func digestOf(t *testing.T, o desired.Object) desired.Digest {
	t.Helper()
	envelope, err := desired.Encode(o)
	if err != nil {
		t.Fatal(err)
	}
	var h desired.Hasher
	return h.Sum([]byte(o.Key), envelope)
}

// told is the key of killed.ids.
func told(key string, version int) string { return fmt.Sprint(key, " ", version) }

// readDiary reads what the program was told since the last time.
func (k *killed) readDiary() {
	k.t.Helper()
	text, err := os.ReadFile(filepath.Join(k.dir, "diary"))
	if os.IsNotExist(err) {
		return
	}
	if err != nil {
		k.t.Fatal(err)
	}
	whole := text[:1+bytes.LastIndexByte(text, '\n')] // a program may yet be at its end
	news := whole[k.read:]
	k.read = len(whole)
	for line := range bytes.Lines(news) {
		var r struct {
			ID, Op, Key, Value string
			Doubt              bool
		}
		if err := json.Unmarshal(line, &r); err != nil {
			k.t.Fatalf("the program read %q: %v", line, err)
		}
		k.hear(r.Op, r.Key, r.Value, r.ID, r.Doubt)
	}
}

// hear takes what the program was told of one object.
func (k *killed) hear(op, key, value, id string, doubt bool) {
	k.told++
	what := told(key, k.version)
	before, repeated := k.ids[what]
	switch {
	case op != "apply" || value != fmt.Sprint(k.version):
		k.t.Errorf("the program was told to %s %s to be %s, while version %d is in force", op, key, value, k.version)
	case id == "" || repeated && id != before || id == k.ids[told(key, k.version-1)]:
		k.t.Errorf("the id of %s in version %d is %q; it was %q, and in the version before %q", key, k.version, id, before, k.ids[told(key, k.version-1)])
	case k.recorded[key]:
		k.t.Errorf("%s was done again after that was recorded, in version %d", key, k.version)
	case repeated && !doubt:
		k.t.Errorf("%s was done again in version %d, and the program was not told that it may be so", key, k.version)
	}
	if repeated {
		k.repeats++
	}
	k.ids[what] = id
}
