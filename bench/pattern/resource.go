package pattern

import (
	"container/heap"
	"math"
	"time"
)

// resource is one direction of the orchestrator's network card, which the messages
// that are under way share evenly; none is faster than an agent's own line. Since
// all flow at one rate, a message ends once that many bytes have passed for each.
type resource struct {
	clock     *clock
	most      float64 // bytes a second, of one flow
	all       float64 // bytes a second, of all
	flows     flows
	passed    float64 // bytes, for each flow, until since
	since     time.Duration
	scheduled uint64
}

// flow is a message under way.
type flow struct {
	size, end float64 // end is the value of resource.passed at which it ends
	index     int
	done      func()
}

func (r *resource) rate() float64 { return min(r.most, r.all/float64(len(r.flows))) }

func (r *resource) advance() {
	if len(r.flows) > 0 {
		r.passed += r.rate() * (r.clock.now - r.since).Seconds()
	}
	r.since = r.clock.now
}

// start begins to carry so many bytes; done is called once they are through.
func (r *resource) start(size int, done func()) *flow {
	r.advance()
	f := &flow{size: float64(size), end: r.passed + float64(size), done: done}
	heap.Push(&r.flows, f)
	r.schedule()
	return f
}

// stop gives a message up, and returns how many bytes of it had passed.
func (r *resource) stop(f *flow) int {
	r.advance()
	heap.Remove(&r.flows, f.index)
	r.schedule()
	return int(max(0, f.size-(f.end-r.passed)))
}

// schedule plans the end of the flow that ends first.
func (r *resource) schedule() {
	r.scheduled++
	if len(r.flows) == 0 {
		return
	}
	turn, left := r.scheduled, (r.flows[0].end-r.passed)/r.rate()
	r.clock.after(time.Duration(math.Ceil(left*1e9)), func() {
		if turn != r.scheduled {
			return
		}
		r.advance()
		f := heap.Pop(&r.flows).(*flow)
		r.schedule()
		f.done()
	})
}

// flows is a heap of messages, by when they end.
type flows []*flow

func (h flows) Len() int           { return len(h) }
func (h flows) Less(i, j int) bool { return h[i].end < h[j].end }
func (h flows) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *flows) Push(x any) {
	f := x.(*flow)
	f.index = len(*h)
	*h = append(*h, f)
}

func (h *flows) Pop() any {
	last := len(*h) - 1
	f := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return f
}
