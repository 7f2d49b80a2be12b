package pattern

import (
	"slices"
	"time"
)

// meter measures what one agent lives through.
type meter struct {
	next int // the first revision that wasn't reached yet
	// behind is since when the agent hasn't held the latest revision, mixed since
	// when what it held was never published; negative: neither.
	behind, mixed         time.Duration
	behindTime, mixedTime time.Duration
	delays                []time.Duration // of revisions 1 on, as they were reached
	deepest               int             // messages that waited for it
	deepestBytes          int64
}

// traffic is what crossed an agent's line.
type traffic struct {
	up, down int64 // bytes
	messages int64
}

// changed notes that what an agent holds has changed. A revision is reached by
// who holds exactly it, or exactly a later one.
func (a *agent) changed() {
	w, m := a.world, &a.meter
	rev, exact := w.history.published[a.sum]
	switch {
	case exact && m.mixed >= 0:
		m.mixedTime += w.within(m.mixed)
		m.mixed = -1
	case !exact && m.mixed < 0:
		m.mixed = w.now
	}
	if !exact {
		return
	}
	for ; m.next <= rev; m.next++ {
		m.delays = append(m.delays, w.now-w.committed[m.next-1])
	}
	switch {
	case rev == w.head && m.behind >= 0:
		m.behindTime += w.within(m.behind)
		m.behind = -1
	case rev != w.head && m.behind < 0:
		m.behind = w.now
	}
}

// moved notes that there is a new revision.
func (m *meter) moved(now time.Duration) {
	if m.behind < 0 {
		m.behind = now
	}
}

// within returns the time since then as far as states were changing.
func (w *world) within(since time.Duration) time.Duration {
	return max(0, min(w.now, w.length)-since)
}

// queued notes how much waits to be sent to an agent.
func (a *agent) queued(messages int, bytes int64) {
	a.meter.deepest = max(a.meter.deepest, messages)
	a.meter.deepestBytes = max(a.meter.deepestBytes, bytes)
}

// work is what the orchestrator does: what an agent's messages take is added to
// it in the end.
type work struct {
	read    int64 // bytes of its store
	objects int64 // that were read and encoded
	rows    int64 // of its tree that were read
	// wholes counts how often everything was sent, descents how often trees were
	// compared.
	wholes, descents int64
}

// readObjects counts objects that are read and encoded.
func (w *world) readObjects(n int) {
	w.work.objects += int64(n)
	w.work.read += int64(n) * int64(keyBytes+w.point.ValueBytes)
}

// sendWhole counts that a revision is sent whole, and returns its bytes. It is
// encoded once, however many ask for it.
func (w *world) sendWhole(rev int) int {
	w.work.wholes++
	if w.encoded != rev {
		w.encoded = rev
		w.readObjects(w.history.objects[rev])
	}
	return w.history.whole(rev)
}

// sendCommit counts that a commit's changes are sent, and returns their bytes. They
// come from memory, where their commit has left them, and are encoded once for all
// agents that are in step.
func (w *world) sendCommit(rev int) int {
	c := &w.history.commits[rev-1]
	if w.encodedCommit != rev {
		w.encodedCommit = rev
		w.work.objects += int64(len(c.changes))
	}
	return c.frame + messageBytes
}

// row returns the figures of a run that has ended.
func (w *world) row(name string) Row {
	r := Row{
		Point: w.point, Pattern: name, Commits: len(w.history.commits),
		ReadBytes: w.work.read, Wholes: w.work.wholes, Descents: w.work.descents,
	}
	var delays []time.Duration
	var behind, mixed time.Duration
	for _, a := range w.agents {
		m := &a.meter
		if m.behind >= 0 {
			m.behindTime += w.within(m.behind)
		}
		if m.mixed >= 0 {
			m.mixedTime += w.within(m.mixed)
		}
		behind, mixed = behind+m.behindTime, mixed+m.mixedTime
		delays = append(delays, m.delays...)
		r.Unreached += len(w.history.commits) - len(m.delays)
		r.SentBytes, r.ReceivedBytes, r.Messages = r.SentBytes+a.traffic.up, r.ReceivedBytes+a.traffic.down, r.Messages+a.traffic.messages
		r.QueueMessages, r.QueueBytes = max(r.QueueMessages, m.deepest), max(r.QueueBytes, m.deepestBytes)
		if !a.equals(w.head) {
			if r.WrongAgents++; !w.protocol.suspects(a) {
				r.UnawareAgents++
			}
		}
	}
	for _, c := range w.history.commits {
		r.Changes += len(c.changes)
		r.PayloadBytes += int64(c.payload)
	}
	r.Ratio = figure(float64(r.SentBytes+r.ReceivedBytes) / float64(max(r.PayloadBytes*int64(len(w.agents)), 1)))
	r.CPUSeconds = figure(cpuMessage*float64(r.Messages) + cpuObject*float64(w.work.objects) +
		cpuRow*float64(w.work.rows) + cpuByte*float64(r.ReceivedBytes))
	all := w.length * time.Duration(len(w.agents))
	r.BehindShare, r.MixedShare = figure(float64(behind)/float64(all)), figure(float64(mixed)/float64(all))
	slices.Sort(delays)
	r.P50, r.P99, r.Max = quantile(delays, r.Unreached, 0.5), quantile(delays, r.Unreached, 0.99), quantile(delays, r.Unreached, 1)
	return r
}

// quantile returns that of sorted delays and so many that never ended, in
// seconds; nil where it is one of these, or there are none.
func quantile(delays []time.Duration, endless int, q float64) *float64 {
	at := int(q * float64(len(delays)+endless-1))
	if at >= len(delays) {
		return nil
	}
	s := figure(delays[at].Seconds())
	return &s
}
