package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"espalier/internal/audit"
	"espalier/internal/desired"
	"espalier/internal/fleet"
	"espalier/internal/lead"
	"espalier/internal/pace"
	"espalier/internal/pki"
	"espalier/internal/wire"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/store"
)

// openFleet reads what the store knows of the hosts.
func (s *Server) openFleet() error {
	lists, err := s.store.Lists()
	if err != nil { // hosts would be told that sets have left
		return fmt.Errorf("read the hosts' lists of sets: %w", err)
	}
	seen, err := s.store.Seen()
	if err != nil {
		return fmt.Errorf("read how the hosts fared: %w", err)
	}
	s.fleet = fleet.New(lists, seen)
	s.lead = lead.New(lead.Options{
		Sets: sets{s.store, s}, Fleet: s.fleet, Codec: s.codec, MaxHeld: s.options.Limits.MaxHeld, Logger: s.log,
		Pace: pace.Options{Objective: s.options.Objective, Budget: s.options.Limits.PollBudget, Hosts: s.fleet.Len()}, Start: time.Now(),
	})
	for _, h := range s.store.Heads() {
		s.lead.Knows(h.Name)
	}
	return nil
}

// changed is told of each set that changes.
func (s *Server) changed(set desired.Name) { s.lead.Changed(set, time.Now()) }

// keepSeen writes down now and then how the hosts fared, and when the server
// stops.
func (s *Server) keepSeen(ctx context.Context) error {
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-time.After(SeenSync):
		}
		for more := true; more; {
			var rows map[desired.Name][]byte
			rows, more = s.fleet.Changed(seenBatch)
			if err := s.store.PutSeen(rows); err != nil {
				s.log.Warn("how the hosts fared can't be written down; it is known until the server stops", "error", err)
			}
		}
	}
	return nil
}

// fleetService is about the hosts.
type fleetService struct {
	espalierv1.UnimplementedFleetServiceServer
	server *Server
}

// mayKnow reports whether the caller may know of a host: of whose sets it may
// use one.
func (c *caller) mayKnow(h fleet.Host) bool {
	return slices.ContainsFunc(h.List.Sets, c.mayUse)
}

func (f fleetService) ListHosts(ctx context.Context, req *espalierv1.ListHostsRequest) (*espalierv1.ListHostsResponse, error) {
	limit := MaxListedHosts
	if req.GetLimit() > 0 {
		limit = int(min(req.GetLimit(), MaxListedHosts))
	}
	hosts, more := f.server.fleet.After(desired.Name(req.GetAfter()), limit, callerOf(ctx).mayKnow)
	resp, size := &espalierv1.ListHostsResponse{}, 0
	for _, h := range hosts {
		m := f.info(ctx, h)
		if size += proto.Size(m); size > listedBytes && len(resp.Hosts) > 0 {
			more = true
			break
		}
		resp.Hosts = append(resp.Hosts, m)
	}
	resp.More = more
	return resp, nil
}

func (f fleetService) GetHost(ctx context.Context, req *espalierv1.GetHostRequest) (*espalierv1.GetHostResponse, error) {
	name, err := desired.ParseName(req.GetHost())
	if err != nil {
		return nil, wire.ToStatus(err)
	}
	h, ok := f.server.fleet.Get(name)
	if !ok || !callerOf(ctx).mayKnow(h) {
		return nil, wire.ToStatus(fmt.Errorf("%w: %s", wire.ErrNoHost, name))
	}
	return &espalierv1.GetHostResponse{Host: f.info(ctx, h)}, nil
}

// info returns what the caller may know of a host.
func (f fleetService) info(ctx context.Context, h fleet.Host) *espalierv1.HostInfo {
	h = h.Only(callerOf(ctx).mayUse)
	h.Revoked = f.server.guard.shutOut(pki.Identity{Role: pki.RoleHost, Name: h.Name}, h.At)
	return wire.HostToWire(h, time.Now(), f.server.store.Head)
}

// SetList makes a host's list, if the guard allows it. One is made at a time.
func (f fleetService) SetList(ctx context.Context, req *espalierv1.SetListRequest) (*espalierv1.SetListResponse, error) {
	r, err := wire.SetListFromWire(req)
	if err != nil {
		return nil, wire.ToStatus(err)
	}
	f.server.listing.Lock()
	defer f.server.listing.Unlock()
	old, next, resp, err := f.server.planList(r)
	if req.GetDryRun() && errors.Is(err, store.ErrTooManyDeletes) {
		resp.Refused, err = err.Error(), nil
	}
	if req.GetDryRun() || err == nil && next.Version == old.Version {
		return resp, wire.ToStatus(err)
	}
	if err == nil {
		if err = f.server.putList(r.Host, next); err == nil {
			f.server.log.Info("set list", "host", r.Host, "version", next.Version, "sets", next.Sets, "who", who(ctx), "why", r.Why)
		}
	}
	what := audit.Record{What: "set list", On: pki.Identity{Role: pki.RoleHost, Name: r.Host}.String(), Revision: next.Version, Why: r.Why}
	if err := f.server.record(ctx, what, err); err != nil {
		return nil, wire.ToStatus(err)
	}
	return resp, nil
}

// planList returns a host's list, the one that is asked for, which is the same if
// nothing would change, and what to answer. The error matches
// store.ErrTooManyDeletes if too many objects would leave.
func (s *Server) planList(r wire.SetList) (old, next desired.List, resp *espalierv1.SetListResponse, err error) {
	old, next, err = s.fleet.Next(r.Host, r.Sets)
	if err != nil {
		return old, next, nil, err
	}
	resp = &espalierv1.SetListResponse{List: wire.ListToWire(next)}
	for _, name := range next.Sets {
		if _, err := s.store.Head(name); errors.Is(err, store.ErrNotFound) && name != r.Host && !slices.Contains(old.Sets, name) {
			return old, next, nil, fmt.Errorf("%w; a first 'espalier apply' creates it", err)
		}
	}
	for _, name := range old.Sets {
		head, err := s.store.Head(name)
		leaves := !slices.Contains(next.Sets, name)
		if err != nil && !errors.Is(err, store.ErrNotFound) && leaves && r.MaxDelete != nil {
			return old, next, nil, fmt.Errorf("%w; without a limit of deletions it can leave all the same", err)
		}
		resp.Objects += head.Objects
		if leaves {
			resp.Deleted += head.Objects
		}
	}
	return old, next, resp, r.MaxDelete.Check(resp.Deleted, resp.Objects)
}
