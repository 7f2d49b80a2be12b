package main

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestCutPulls cuts the connection of an agent every so many bytes until it has
// all, and counts what came down for it: each cut costs what was under way, and
// what it takes to begin again. So each attempt brings something, and no number
// of cuts keeps a host from its state.
func TestCutPulls(t *testing.T) {
	const objects = 12_000
	w := newWorld(t, faultSeedOf(t), 1, objects)
	h := w.hosts[0]
	h.agent().kill(syscall.SIGTERM)
	for _, c := range []struct {
		name    string
		changes int
		prepare func()
		// life is how many bytes a connection carries, on average; compared is what
		// it takes to compare what differs once.
		life, compared int64
	}{
		{"full", objects, func() { os.Remove(filepath.Join(h.data, "sets", h.name+".db")) }, 300_000, 0},
		{"since", objects / 4, func() {}, 200_000, 0},
		{"since, less than a large frame", objects / 8, func() {}, 70_000, 0},
		{"descent", objects / 2, func() { must(t, nil, "", w.as("compact", h.name, "--drop-history")...) }, 300_000, 8 * objects},
	} {
		w.payload = 0
		w.commit(h.name, c.changes)
		c.prepare()
		n := w.network
		down, connections := n.down.Load(), n.connections.Load()
		if err := n.turn(weather{bytes: c.life}); err != nil {
			t.Fatal(err)
		}
		status := 4
		for runs := 0; status != 0 && runs < 100; runs++ {
			status = espalier(t, "", "agent", "--once", "--data", h.data, "--server", n.Addr().String()).status
		}
		n.turn(weather{})
		down, connections = n.down.Load()-down, n.connections.Load()-connections
		if status != 0 {
			t.Fatalf("%s: not in step after %d connections, with status %d", c.name, connections, status)
		}
		const underWay = 128<<10 + 16<<10 // a frame, and a handshake
		t.Logf("%s: %d B of payload, %d B came down on %d connections", c.name, w.payload, down, connections)
		if most := w.payload + connections*(underWay+c.compared); down > most || connections < 2 {
			t.Errorf("%s: %d B came down on %d connections, want at most %d for a payload of %d B, on 2 or more", c.name, down, connections, most, w.payload)
		}
	}
	w.startAgent(h)
	w.settle()
	w.verdict()
}
