package config

import (
	"fmt"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"espalier/internal/apply"
	"espalier/internal/desired"
	"espalier/store"
)

// config reads the whole of a file.
func (r *reader) config(n *yaml.Node, c *Config) {
	var routes []placed
	r.object(n, "the file",
		field{"host", func(n *yaml.Node) { r.host(n, c) }},
		field{"server", func(n *yaml.Node) { r.server(n, c) }},
		field{"data", func(n *yaml.Node) { c.Data, _ = r.absolute(n, "data") }},
		field{"interval", func(n *yaml.Node) { r.poll(n, c) }},
		field{"drivers", func(n *yaml.Node) { routes = r.drivers(n) }},
		field{"apply", func(n *yaml.Node) { r.apply(n, &c.Policy) }},
		field{"scan", func(n *yaml.Node) { r.scan(n, &c.Policy) }},
	)
	r.together(routes, c.Data)
	for _, p := range routes {
		c.Routes = append(c.Routes, p.Route)
	}
}

func (r *reader) host(n *yaml.Node, c *Config) {
	text, ok := r.text(n, "host")
	if !ok {
		return
	}
	if _, err := desired.ParseName(text); err != nil {
		r.problem(n.Line, "host: %v", err)
		return
	}
	c.Host = text
}

// server reads one address, or a list of them.
func (r *reader) server(n *yaml.Node, c *Config) {
	if n.Kind == yaml.ScalarNode {
		n = &yaml.Node{Kind: yaml.SequenceNode, Line: n.Line, Content: []*yaml.Node{n}}
	}
	var all []string
	r.list(n, "server", maxServers, func(e *yaml.Node) {
		address, ok := r.text(e, "server")
		if !ok {
			return
		}
		if err := checkAddress(address); err != nil {
			r.problem(e.Line, "server %q: %v", address, err)
		} else if slices.Contains(all, address) {
			r.problem(e.Line, "server %q is there twice", address)
		}
		all = append(all, address)
	})
	if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
		r.problem(n.Line, "server: the list is empty")
	}
	c.Server = strings.Join(all, ",")
}

func checkAddress(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" || strings.ContainsAny(host, ", /") {
		return fmt.Errorf("want host:port")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("the port has to be a number from 1 to 65535")
	}
	return nil
}

func (r *reader) poll(n *yaml.Node, c *Config) {
	var d time.Duration
	if r.duration(n, "interval", minInterval, maxTimeout, &d); d > 0 {
		c.Interval = &d
	}
}

func (r *reader) apply(n *yaml.Node, p *apply.Policy) {
	r.object(n, "apply",
		field{"mode", func(n *yaml.Node) { r.mode(n, p) }},
		field{"max_delete", func(n *yaml.Node) { r.maxDelete(n, p) }},
		field{"windows", func(n *yaml.Node) {
			r.list(n, "windows", maxWindows, func(e *yaml.Node) { r.window(e, p) })
		}},
		field{"rate", func(n *yaml.Node) { r.rate(n, "rate of apply", &p.Rate) }},
		field{"timeout", func(n *yaml.Node) { r.duration(n, "timeout of apply", minInterval, maxTimeout, &p.Timeout) }},
	)
}

func (r *reader) mode(n *yaml.Node, p *apply.Policy) {
	switch {
	case n.Kind == yaml.ScalarNode && n.Value == "enforce":
	case n.Kind == yaml.ScalarNode && n.Value == "detect":
		p.Detect = true
	default:
		r.unwanted(n, "mode", "enforce or detect")
	}
}

// maxDelete reads a number, a percentage or none.
func (r *reader) maxDelete(n *yaml.Node, p *apply.Policy) {
	limit := &store.DeleteLimit{}
	percent, isPercent := strings.CutSuffix(n.Value, "%")
	count, err := strconv.ParseUint(n.Value, 10, 63)
	switch {
	case n.Kind == yaml.ScalarNode && n.Value == "none":
		limit.Count = math.MaxUint64
	case n.Kind == yaml.ScalarNode && isPercent:
		v, err := strconv.ParseFloat(percent, 64)
		if err != nil || !(v >= 0 && v <= 100) {
			r.problem(n.Line, "max_delete %.64q: want a percentage from 0%% to 100%%", n.Value)
			return
		}
		if v > 0 {
			limit.Count, limit.Percent = minDeletes, v
		}
	case n.Kind == yaml.ScalarNode && err == nil:
		limit.Count = count
	default:
		r.unwanted(n, "max_delete", "a number, a percentage such as 10%, or none for no limit")
		return
	}
	p.MaxDelete = limit
}

func (r *reader) scan(n *yaml.Node, p *apply.Policy) {
	r.object(n, "scan",
		field{"interval", func(n *yaml.Node) { r.interval(n, "interval of scan", &p.ScanInterval) }},
		field{"rate", func(n *yaml.Node) { r.rate(n, "rate of scan", &p.ScanRate) }},
		field{"contents_interval", func(n *yaml.Node) { r.interval(n, "contents_interval", &p.ContentsInterval) }},
		field{"contents_rate", func(n *yaml.Node) { r.rate(n, "contents_rate", &p.ContentsRate) }},
		field{"contents_bytes", func(n *yaml.Node) { r.size(n, "contents_bytes", 1, maxByteRate, &p.ContentsBytes) }},
	)
}

// window reads a part of the week.
func (r *reader) window(n *yaml.Node, p *apply.Policy) {
	var w apply.Window
	lines := r.object(n, "a window",
		field{"days", func(n *yaml.Node) {
			r.list(n, "days", 7, func(e *yaml.Node) { r.day(e, &w) })
			if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
				r.problem(n.Line, "days: the list is empty; leave it out for all days")
			}
		}},
		field{"from", func(n *yaml.Node) { r.clock(n, "from", 24*time.Hour-time.Minute, &w.From) }},
		field{"until", func(n *yaml.Node) { r.clock(n, "until", 24*time.Hour, &w.Until) }},
	)
	for _, name := range []string{"from", "until"} {
		if _, ok := lines[name]; !ok && n.Kind == yaml.MappingNode {
			r.problem(n.Line, "a window has no %s: want a time of day, as \"22:00\"", name)
		}
	}
	p.Windows = append(p.Windows, w)
}

func (r *reader) day(n *yaml.Node, w *apply.Window) {
	for d := time.Sunday; d <= time.Saturday; d++ {
		name := strings.ToLower(d.String())
		if n.Kind != yaml.ScalarNode || n.Value != name && n.Value != name[:3] {
			continue
		}
		if slices.Contains(w.Days, d) {
			r.problem(n.Line, "days: %s is there twice", name)
		}
		w.Days = append(w.Days, d)
		return
	}
	r.unwanted(n, "days", "mon, tue, wed, thu, fri, sat or sun")
}

// clock reads a time of day.
func (r *reader) clock(n *yaml.Node, what string, most time.Duration, to *time.Duration) {
	hours, minutes, ok := strings.Cut(n.Value, ":")
	h, err1 := strconv.ParseUint(hours, 10, 8)
	m, err2 := strconv.ParseUint(minutes, 10, 8)
	d := time.Duration(h)*time.Hour + time.Duration(m)*time.Minute
	if n.Kind != yaml.ScalarNode || !ok || len(hours) != 2 || len(minutes) != 2 || err1 != nil || err2 != nil || m > 59 || d > most {
		r.unwanted(n, what, fmt.Sprintf("a time of day from 00:00 to %02d:%02d", most/time.Hour, most%time.Hour/time.Minute))
		return
	}
	*to = d
}
