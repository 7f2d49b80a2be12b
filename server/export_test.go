package server

import (
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

// Ruled reports whether there is a rule for a call.
func Ruled(method string) bool {
	_, ok := access[method]
	return ok
}

// Rules returns how many calls have one.
func Rules() int { return len(access) }

// ServeWith serves as Run does, with what register adds.
func (s *Server) ServeWith(l net.Listener, register func(*grpc.Server)) (*grpc.Server, error) {
	g, l, err := s.prepare(l)
	if err != nil {
		return nil, err
	}
	healthv1.RegisterHealthServer(g, health.NewServer())
	register(g)
	go func() { _ = g.Serve(l) }()
	return g, nil
}

// Connections returns how many connections there are, and how many of them wait
// for their handshake.
func (s *Server) Connections() (all, waiting int) {
	s.guard.door.mu.Lock()
	defer s.guard.door.mu.Unlock()
	return s.guard.door.all, len(s.guard.door.waiting)
}
