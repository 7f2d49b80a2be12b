package server

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"espalier/internal/fleet"
	"espalier/internal/wire"
	"espalier/store"
)

// metrics counts what a server does. No label names a set, a host or a person.
type metrics struct {
	polls    *prometheus.CounterVec // by outcome
	pulls    *prometheus.CounterVec // by outcome
	refused  *prometheus.CounterVec // by reason
	changes  *prometheus.CounterVec // by call and outcome
	sent     prometheus.Counter
	pullTime prometheus.Histogram
}

func newMetrics() *metrics {
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "espalier_" + name, Help: help}, labels)
	}
	return &metrics{
		polls:   vec("polls_total", "Polls answered, by outcome: idle, changed, held (answered after a wait), failed.", "outcome"),
		pulls:   vec("pulls_total", "Pulls ended, by outcome: done, failed.", "outcome"),
		refused: vec("refused_total", "Polls and pulls that there was no room for, by reason.", "reason"),
		changes: vec("changes_total", "Changes of sets, by call and outcome: done, refused.", "call", "outcome"),
		sent: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "espalier_pull_bytes_total", Help: "Bytes of messages sent in pulls.",
		}),
		pullTime: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "espalier_pull_seconds", Help: "How long pulls took.", Buckets: prometheus.ExponentialBuckets(0.001, 4, 10),
		}),
	}
}

// outcome returns a label for how something ended.
func outcome(err error, done, failed string) string {
	if err != nil {
		return failed
	}
	return done
}

// noteRefused counts what there was no room for.
func (m *metrics) noteRefused(err error) {
	var e *wire.OverloadedError
	if errors.As(err, &e) {
		m.refused.WithLabelValues(e.Reason).Inc()
	}
}

// state is what a server is at the moment, gathered when it is asked for.
type state struct{ *Server }

func gauge(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("espalier_"+name, help, labels, nil)
}

var (
	descHosts       = gauge("hosts", "Hosts, by state.", "state")
	descProgress    = gauge("hosts_applying", "Hosts, by how they fare with making true what they mirror.", "progress")
	descFailed      = gauge("objects_failed", "Objects that could not be made true, on all hosts.")
	descSets        = gauge("sets", "Sets, by state: served, forked, quarantined.", "state")
	descHeld        = gauge("polls_held", "Polls that wait for something to change.")
	descUnderWay    = gauge("pulls_under_way", "Pulls of hosts that are under way.")
	descPollRate    = gauge("polls_per_second", "Polls a second, over about a minute.")
	descObjective   = gauge("objective_seconds", "The longest that a change shall wait for a host to notice it.")
	descLongest     = gauge("longest_interval_seconds", "The longest that a host is told to wait: more than the objective where the budget can't hold that.")
	descLimit       = gauge("limit", "The limits in force, by name; 0: none.", "name")
	descConnections = gauge("connections", "Connections, over TLS.")
)

// Describe implements prometheus.Collector.
func (s state) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descHosts, descProgress, descFailed, descSets, descHeld, descUnderWay, descPollRate, descObjective, descLongest, descLimit, descConnections,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (s state) Collect(ch chan<- prometheus.Metric) {
	send := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	now := time.Now()
	hosts := s.fleet.States(now, s.store.Head)
	for st := range fleet.States() {
		send(descHosts, float64(hosts[st]), st.String())
	}
	progress, failed := s.fleet.Progress()
	for p := range fleet.AllProgress() {
		send(descProgress, float64(progress[p]), p.String())
	}
	send(descFailed, failed)
	sets := map[string]int{"served": 0, "forked": 0, "quarantined": 0}
	for _, h := range s.store.Heads() {
		sets[setState(h)]++
	}
	for name, n := range sets {
		send(descSets, float64(n), name)
	}
	load := s.lead.Load(now)
	send(descHeld, float64(s.lead.Held()))
	send(descUnderWay, float64(s.valve.underWay()))
	send(descPollRate, load.Polls)
	send(descObjective, load.Objective.Seconds())
	send(descLongest, load.Longest.Seconds())
	if s.guard != nil {
		send(descConnections, float64(s.guard.door.count()))
	}
	l := s.options.Limits
	for name, v := range map[string]float64{
		"poll_budget": load.Budget, "poll_rate": l.PollRate, "held_polls": float64(l.MaxHeld), "pulls": float64(l.MaxPulls),
		"bytes_per_second": float64(l.Bytes), "host_bytes_per_second": float64(l.HostBytes), "connections": MaxConnections,
	} {
		send(descLimit, v, name)
	}
}

func setState(h store.NamedHead) string {
	switch {
	case h.Err != nil:
		return "quarantined"
	case h.Forked:
		return "forked"
	}
	return "served"
}

// register makes the metrics known, if anybody wants them.
func (s *Server) register() error {
	r := s.options.Metrics
	if r == nil {
		return nil
	}
	m := s.metrics
	for _, c := range []prometheus.Collector{m.polls, m.pulls, m.refused, m.changes, m.sent, m.pullTime, state{s}} {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}
