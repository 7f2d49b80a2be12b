package pattern

import "time"

// clock is virtual time: what is to happen, in order. What is due at the same time
// happens in the order in which it was asked for.
type clock struct {
	now   time.Duration
	due   []appointment // a heap
	asked uint64
}

// appointment is something that is to happen.
type appointment struct {
	at    time.Duration
	asked uint64
	what  func()
}

func (a *appointment) before(b *appointment) bool {
	return a.at < b.at || a.at == b.at && a.asked < b.asked
}

// after lets something happen once d has passed.
func (c *clock) after(d time.Duration, what func()) {
	c.asked++
	a := appointment{at: c.now + max(d, 0), asked: c.asked, what: what}
	c.due = append(c.due, a)
	i := len(c.due) - 1
	for i > 0 && a.before(&c.due[(i-1)/2]) {
		c.due[i] = c.due[(i-1)/2]
		i = (i - 1) / 2
	}
	c.due[i] = a
}

// step lets the next thing happen; false: there is none until then.
func (c *clock) step(until time.Duration) bool {
	if len(c.due) == 0 || c.due[0].at > until {
		return false
	}
	a := c.pop()
	c.now = a.at
	a.what()
	return true
}

func (c *clock) pop() appointment {
	first, n := c.due[0], len(c.due)-1
	last := c.due[n]
	c.due[n] = appointment{}
	c.due = c.due[:n]
	if n == 0 {
		return first
	}
	i := 0
	for {
		child := 2*i + 1
		if child+1 < n && c.due[child+1].before(&c.due[child]) {
			child++
		}
		if child >= n || !c.due[child].before(&last) {
			break
		}
		c.due[i] = c.due[child]
		i = child
	}
	c.due[i] = last
	return first
}
