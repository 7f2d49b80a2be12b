package apply

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"espalier/agent/driver"
	"espalier/internal/desired"
	"espalier/store"
)

// routes are in the order of their prefixes.
type routes []Route

func newRoutes(all []Route) (routes, error) {
	rs := slices.Clone(all)
	slices.SortFunc(rs, func(a, b Route) int { return strings.Compare(a.Prefix, b.Prefix) })
	for i, r := range rs {
		switch {
		case r.Driver == nil:
			return nil, fmt.Errorf("%w route for prefix %q: it has no driver", desired.ErrInvalid, r.Prefix)
		case r.Name == "" || len(r.Name) > store.MaxRouteBytes:
			return nil, fmt.Errorf("%w route for prefix %q: its name has %d bytes, want 1 to %d",
				desired.ErrInvalid, r.Prefix, len(r.Name), store.MaxRouteBytes)
		case i > 0 && rs[i-1].Prefix == r.Prefix:
			return nil, fmt.Errorf("%w route: prefix %q has two drivers", desired.ErrInvalid, r.Prefix)
		}
	}
	return rs, nil
}

// find returns the route of a key, nil if no driver owns it.
func (rs routes) find(key []byte) *Route {
	var longest *Route
	for i := range rs { // of which there are a few
		if r := &rs[i]; (longest == nil || len(r.Prefix) > len(longest.Prefix)) && bytes.HasPrefix(key, []byte(r.Prefix)) {
			longest = r
		}
	}
	return longest
}

// name returns what the record keeps of r.
func (r *Route) name() string {
	if r == nil {
		return ""
	}
	return r.Name
}

// print returns what says whether routes are still those by which the record was
// made.
func (rs routes) print() []byte {
	h := sha256.New()
	for _, r := range rs {
		fmt.Fprintf(h, "%q %q %q\n", r.Prefix, r.Name, r.Version)
	}
	return hex.AppendEncode(nil, h.Sum(nil))
}

// batching returns how the route's driver likes its changes.
func (r *Route) batching(p Policy) driver.Batching {
	var b driver.Batching
	if d, ok := r.Driver.(driver.Batcher); ok {
		b = d.Batching()
	}
	b.Objects = min(max(1, b.Objects), maxBatch)
	if p.Rate > 0 {
		b.Objects = min(b.Objects, max(1, int(p.Rate))) // what the limiter lets through at once
	}
	b.Bytes = cmp.Or(b.Bytes, defaultBatchBytes)
	b.Parallel = max(1, b.Parallel)
	b.Timeout = cmp.Or(b.Timeout, p.Timeout, DefaultTimeout)
	return b
}

// span is the keys with from <= key < until; a nil until stands for the end.
type span struct{ from, until []byte }

// spans returns, for each route and at last for what no driver owns, the stretches
// of keys that are its alone, ascending.
func (rs routes) spans() [][]span {
	bounds := [][]byte{{}} // between two of them the longest prefix is one
	for _, r := range rs {
		bounds = append(bounds, []byte(r.Prefix))
		if end := successor(r.Prefix); end != nil {
			bounds = append(bounds, end)
		}
	}
	slices.SortFunc(bounds, bytes.Compare)
	bounds = slices.CompactFunc(bounds, bytes.Equal)
	all := make([][]span, len(rs)+1)
	for i, from := range bounds {
		var until []byte
		if i+1 < len(bounds) {
			until = bounds[i+1]
		}
		owner := len(rs)
		if r := rs.find(from); r != nil {
			owner = slices.IndexFunc(rs, func(o Route) bool { return o.Prefix == r.Prefix })
		}
		all[owner] = append(all[owner], span{from, until})
	}
	return all
}

// successor returns the least key above all that begin with prefix, nil if there
// is none.
func successor(prefix string) []byte {
	b := []byte(prefix)
	for len(b) > 0 && b[len(b)-1] == 0xff {
		b = b[:len(b)-1]
	}
	if len(b) > 0 {
		b[len(b)-1]++
		return b
	}
	return nil
}
