package server

import (
	"context"
	"fmt"

	"espalier/internal/audit"
	"espalier/internal/desired"
	"espalier/internal/fleet"
	"espalier/internal/pki"
	"espalier/internal/wire"
	espalierv1 "espalier/proto/espalier/v1"
)

// SetOrders tells a host what else it is to do. Orders go with its list of sets,
// of which one is made at a time. A host that the server has never heard of is
// told nothing: it would seem to be paused, and be called otherwise.
func (f fleetService) SetOrders(ctx context.Context, req *espalierv1.SetOrdersRequest) (*espalierv1.SetOrdersResponse, error) {
	r, err := wire.OrdersFromWire(req)
	if err != nil {
		return nil, wire.ToStatus(err)
	}
	if _, ok := f.server.fleet.Get(r.Host); !ok {
		return nil, wire.ToStatus(fmt.Errorf("%w: %s", wire.ErrNoHost, r.Host))
	}
	f.server.listing.Lock()
	defer f.server.listing.Unlock()
	old, next, guarded, err := f.server.fleet.Order(r.Host, r.Order)
	resp := &espalierv1.SetOrdersResponse{List: wire.ListToWire(next), Guarded: guarded}
	if err == nil && next.Version == old.Version {
		return resp, nil
	}
	if err == nil {
		err = f.server.putList(r.Host, next)
	}
	if err := f.server.recordOrder(ctx, r, next, guarded, err); err != nil {
		return nil, wire.ToStatus(err)
	}
	return resp, nil
}

// putList makes a list a host's, and tells the host.
func (s *Server) putList(host desired.Name, l desired.List) error {
	if err := s.store.PutList(host, l); err != nil {
		return err
	}
	s.fleet.SetList(host, l)
	s.lead.Relisted(host)
	return nil
}

// recordOrder says in the logs what a host was told, or that err kept it from
// being told. It returns err.
func (s *Server) recordOrder(ctx context.Context, r wire.Orders, l desired.List, guarded uint64, err error) error {
	what := audit.Record{What: r.Order.Kind.String(), On: pki.Identity{Role: pki.RoleHost, Name: r.Host}.String(), Why: r.Order.Why}
	if r.Order.Kind == fleet.Release {
		what.Why = fmt.Sprintf("deletions: %d, to root %v; %s", guarded, r.Order.Root, r.Order.Why)
	}
	if err == nil {
		what.Revision = l.Version
		s.log.Info("host ordered", "host", r.Host, "order", r.Order.Kind, "version", l.Version, "who", who(ctx), "why", what.Why)
	}
	return s.record(ctx, what, err)
}
