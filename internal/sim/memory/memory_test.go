package memory_test

import (
	"math/rand/v2"
	"testing"

	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/internal/follow"
	"espalier/internal/sim/memory"
	"espalier/store/storetest"
)

var options = memory.Options{JournalKeys: 4096, AdoptChanges: 40}

type sets struct{ *memory.Store }

func (s sets) View(set desired.Name, fn func(delta.Source) error) error {
	return s.Store.View(set, func(snapshot *memory.Snapshot) error { return fn(snapshot) })
}

func TestSets(t *testing.T) {
	storetest.RunSets(t, func(*testing.T) (storetest.Sets, func() storetest.Sets) {
		d, r := memory.NewDisk(rand.New(rand.NewPCG(1, 1))), rand.New(rand.NewPCG(2, 2))
		again := func() storetest.Sets {
			d.Crash()
			d.Restart()
			return sets{memory.OpenStore(d, r, options)}
		}
		return again(), again
	})
}

func TestMirrors(t *testing.T) {
	storetest.RunMirrors(t, options.AdoptChanges, func(*testing.T) (follow.Disk, func() follow.Disk) {
		d := memory.NewDisk(rand.New(rand.NewPCG(3, 3)))
		again := func() follow.Disk {
			d.Crash()
			d.Restart()
			return memory.Agent{Disk: d, Options: options}
		}
		return again(), again
	})
}
