package pace

import "math"

// census is how a fleet's hosts are spread over rates of change: how many there
// are in each class, a quarter of an octave wide. Hosts are not listed: one that
// polls counts for the time that it waits next, what was counted fades, and the
// sum is held against time, faded alike. So one that keeps polling counts as one
// whatever its intervals are, and one that is gone is forgotten.
type census struct {
	weight [classes]float64 // host-seconds
	time   float64          // seconds
}

const (
	// classes reach from slowest, a change in five centuries, to thousands a second.
	classesPerOctave = 4
	classes          = 50 * classesPerOctave
	slowest          = 0x1p-34
)

// newCensus returns one of so many hosts that change at a rate, taken for seen over
// a time.
func newCensus(hosts, rate, time float64) census {
	c := census{time: time}
	c.weight[class(rate)] = hosts * time
	return c
}

// class returns the class of a rate, in changes a second.
func class(rate float64) int {
	return min(max(int(math.Round(classesPerOctave*math.Log2(rate/slowest))), 0), classes-1)
}

// classRate is the rate in the middle of a class.
func classRate(i int) float64 { return slowest * math.Exp2(float64(i)/classesPerOctave) }

// count adds a host that waits for so many seconds.
func (c *census) count(rate, wait float64) { c.weight[class(rate)] += wait }

// pass lets so many seconds pass, and what was counted fade with the time constant
// memory.
func (c *census) pass(seconds, memory float64) {
	keep := math.Exp(-seconds / memory)
	for i := range c.weight {
		c.weight[i] *= keep
	}
	c.time = c.time*keep + memory*(1-keep)
}

// hosts returns how many there are.
func (c *census) hosts() float64 {
	sum := 0.0
	for _, w := range c.weight {
		sum += w
	}
	return sum / c.time
}

// polls returns how many there are a second if each host of a rate waits for
// interval(rate).
func (c *census) polls(interval func(rate float64) float64) float64 {
	sum := 0.0
	for i, w := range c.weight {
		if w > 0 {
			sum += w / interval(classRate(i))
		}
	}
	return sum / c.time
}
