package main

import (
	"encoding/binary"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// weather is what a network does to what passes through it.
type weather struct {
	// loss is the part of the TCP segments that are lost on each of two hops, in
	// both directions; the kernel drops them, and so they are sent again. Linux
	// alone does that.
	loss float64
	// delay is how long what is sent takes, each way.
	delay time.Duration
	// life is how long a connection lives on average; 0: for as long as it wants to.
	life time.Duration
	// bytes is how many come down on average before a connection is cut; 0: any number.
	bytes int64
	// silent holds up everything, and closes nothing.
	silent bool
	// instead is the address of who answers in the server's place; "": nobody does.
	instead string
}

// network is a network between agents and a server, whose weather changes while
// it runs: a proxy in this process.
type network struct {
	net.Listener
	group sync.WaitGroup

	// What passed, in bytes from agents up, and down to them; connections are all
	// that were made, cuts those that the weather ended. records are those of TLS
	// that agents sent once they had said hello: a poll is one.
	up, down, connections, cuts, records atomic.Int64

	mu      sync.Mutex
	to      string
	weather weather
	rng     *rand.Rand
	links   map[*link]bool
	clear   chan struct{} // closed unless it is silent
	closed  bool
}

// newNetwork begins with fair weather. Call reach before anybody dials.
func newNetwork(t *testing.T, seed uint64) *network {
	t.Helper()
	var plain net.ListenConfig
	plain.SetMultipathTCP(false) // whose sockets take no filter
	l, err := plain.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &network{Listener: l, rng: rand.New(rand.NewPCG(seed, 1)), links: map[*link]bool{}, clear: make(chan struct{})}
	close(n.clear)
	n.group.Go(n.serve)
	t.Cleanup(n.end)
	return n
}

// reach says where the server is now.
func (n *network) reach(address string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.to = address
}

// turn changes the weather, also for the connections that there are.
func (n *network) turn(to weather) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.weather.silent != to.silent {
		if to.silent {
			n.clear = make(chan struct{})
		} else {
			close(n.clear)
		}
	}
	n.weather = to
	if err := loseSegments(n.Listener.(*net.TCPListener), to.loss); err != nil {
		return err
	}
	for l := range n.links {
		n.expose(l)
	}
	return nil
}

// expose exposes a connection to the weather. n.mu is held.
func (n *network) expose(l *link) {
	for _, c := range []*net.TCPConn{l.agent, l.server} {
		_ = loseSegments(c, n.weather.loss) // of one that is closed by now, there is nothing to lose
	}
	l.delay.Store(int64(n.weather.delay))
	l.left.Store(n.draw(n.weather.bytes))
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	switch {
	case n.weather.instead != "":
		l.timer = time.AfterFunc(0, l.cut)
	case n.weather.life > 0:
		l.timer = time.AfterFunc(time.Duration(n.draw(int64(n.weather.life))), l.cut)
	}
}

// draw returns a number that is mean on average, and half of it at least; 0 for 0.
func (n *network) draw(mean int64) int64 {
	if mean == 0 {
		return 0
	}
	return mean/2 + n.rng.Int64N(mean)
}

func (n *network) end() {
	n.Close()
	n.mu.Lock()
	n.closed = true
	select {
	case <-n.clear:
	default:
		close(n.clear)
	}
	for l := range n.links {
		l.close()
	}
	n.mu.Unlock()
	n.group.Wait()
}

func (n *network) serve() {
	for {
		c, err := n.Accept()
		if err != nil {
			return
		}
		n.connections.Add(1)
		n.group.Go(func() { n.connect(c.(*net.TCPConn)) })
	}
}

// connect makes the other half of a connection. In silence it is made, and
// nothing comes of it.
func (n *network) connect(agent *net.TCPConn) {
	n.mu.Lock()
	to, loss, portal := n.to, n.weather.loss, n.weather.instead
	n.mu.Unlock()
	if portal != "" {
		to, loss = portal, 0
	}
	server, err := losingFrom(loss).Dial("tcp", to)
	if err != nil {
		agent.Close()
		return
	}
	l := &link{network: n, agent: agent, server: server.(*net.TCPConn), done: make(chan struct{})}
	n.mu.Lock()
	if n.closed {
		l.close()
	} else {
		n.links[l] = true
		if portal == "" {
			n.expose(l)
		}
	}
	n.mu.Unlock()
	up, down := make(chan packet, 64), make(chan packet, 64)
	n.group.Go(func() { l.read(l.agent, up) })
	n.group.Go(func() { l.read(l.server, down) })
	n.group.Go(func() { l.write(l.server, up, l.sent()) })
	l.write(l.agent, down, l.received)
	n.mu.Lock()
	delete(n.links, l)
	if l.timer != nil {
		l.timer.Stop()
	}
	n.mu.Unlock()
}

// link is a connection through a network.
type link struct {
	network       *network
	agent, server *net.TCPConn
	delay, left   atomic.Int64 // of the weather; left is 0 for any number of bytes
	timer         *time.Timer  // under network.mu
	once          sync.Once
	done          chan struct{}
}

// packet is what was read at once, and when it arrives.
type packet struct {
	bytes []byte
	due   time.Time
}

func (l *link) close() {
	l.once.Do(func() {
		close(l.done)
		l.agent.Close()
		l.server.Close()
	})
}

// cut ends the link, and counts it.
func (l *link) cut() {
	l.network.cuts.Add(1)
	l.close()
}

// read reads what one side sends. Of its end the other learns as of all else, in
// its time.
func (l *link) read(from *net.TCPConn, to chan<- packet) {
	defer close(to)
	for {
		buf := make([]byte, 16<<10)
		n, err := from.Read(buf)
		if n > 0 {
			select {
			case to <- packet{buf[:n], time.Now().Add(time.Duration(l.delay.Load()))}:
			case <-l.done:
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// write hands on what was read when it is due, and the sky is clear; passed is
// told, and returns how much of it may pass before the link is cut.
func (l *link) write(to *net.TCPConn, from <-chan packet, passed func([]byte) int) {
	defer l.close()
	for p := range from {
		time.Sleep(time.Until(p.due))
		if !l.clear() {
			return
		}
		n := passed(p.bytes)
		if _, err := to.Write(p.bytes[:n]); err != nil {
			return
		}
		if n < len(p.bytes) {
			l.cut()
			return
		}
	}
	l.clear()
}

// clear waits until it isn't silent. It returns false once the link is over.
func (l *link) clear() bool {
	l.network.mu.Lock()
	clear := l.network.clear
	l.network.mu.Unlock()
	select {
	case <-clear:
		return true
	case <-l.done:
		return false
	}
}

// received counts what comes down, and says where it is cut.
func (l *link) received(b []byte) int {
	n := len(b)
	if left := l.left.Load(); left > 0 {
		n = int(min(left-1, int64(n)))
		l.left.Add(int64(-n))
	}
	l.network.down.Add(int64(n))
	return n
}

// sent returns what counts what goes up, and the records of TLS in it.
func (l *link) sent() func([]byte) int {
	const header, application = 5, 23
	var partial []byte
	skip := 0
	return func(b []byte) int {
		l.network.up.Add(int64(len(b)))
		for rest := b; len(rest) > 0; {
			if skip > 0 {
				n := min(skip, len(rest))
				rest, skip = rest[n:], skip-n
				continue
			}
			n := min(header-len(partial), len(rest))
			partial, rest = append(partial, rest[:n]...), rest[n:]
			if len(partial) == header {
				if partial[0] == application {
					l.network.records.Add(1)
				}
				skip, partial = int(binary.BigEndian.Uint16(partial[3:])), partial[:0]
			}
		}
		return len(b)
	}
}
