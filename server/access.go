package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionv1alpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/grpc/status"

	"espalier/internal/audit"
	"espalier/internal/desired"
	"espalier/internal/fleet"
	"espalier/internal/pki"
	"espalier/internal/wire"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/store"
)

// rule says who may make a call.
type rule struct {
	roles  []pki.Role
	anyone bool // also those who show no certificate
	// set returns the set that a message of the call is about; "": none. A host
	// may only name those on its list, an operator those of its patterns. nil: the handler
	// looks at the sets itself.
	set func(message any) string
	// adminOnly reports whether a message asks for what admins alone may do.
	adminOnly func(message any) bool
}

var (
	hosts     = []pki.Role{pki.RoleHost, pki.RoleAdmin, pki.RoleWriter, pki.RoleReader}
	operators = []pki.Role{pki.RoleAdmin, pki.RoleWriter, pki.RoleReader}
	writers   = []pki.Role{pki.RoleAdmin, pki.RoleWriter}
	admins    = []pki.Role{pki.RoleAdmin}
)

// named is a message that names a set.
type named interface{ GetSet() string }

// setOf is for calls whose messages all name one: another would have to fail, not
// pass for one that names none.
func setOf(message any) string { return message.(named).GetSet() }

// access has a rule for each call; a call without one is refused.
var access = map[string]rule{
	espalierv1.SyncService_Poll_FullMethodName: {roles: hosts}, // names sets that are answered one by one
	espalierv1.SyncService_Pull_FullMethodName: {roles: hosts, set: func(m any) string {
		return m.(*espalierv1.PullRequest).GetOpen().GetSet()
	}},

	espalierv1.OperatorService_ListSets_FullMethodName:    {roles: operators}, // lists what the caller may use
	espalierv1.OperatorService_GetHead_FullMethodName:     {roles: operators, set: setOf},
	espalierv1.OperatorService_Log_FullMethodName:         {roles: operators, set: setOf},
	espalierv1.OperatorService_GetObject_FullMethodName:   {roles: operators, set: setOf},
	espalierv1.OperatorService_ListObjects_FullMethodName: {roles: operators, set: setOf},
	espalierv1.OperatorService_Match_FullMethodName:       {roles: operators, set: setOf},
	espalierv1.OperatorService_Check_FullMethodName:       {roles: operators, set: setOf},
	espalierv1.OperatorService_Commit_FullMethodName: {
		roles:     writers,
		set:       func(m any) string { return m.(*espalierv1.CommitRequest).GetTerms().GetSet() },
		adminOnly: func(m any) bool { return m.(*espalierv1.CommitRequest).GetTerms().GetRestore() != nil },
	},
	espalierv1.OperatorService_DeleteSet_FullMethodName: {roles: admins, set: setOf},
	espalierv1.OperatorService_Renew_FullMethodName:     {roles: admins, set: setOf},
	espalierv1.OperatorService_Compact_FullMethodName:   {roles: admins, set: setOf},

	espalierv1.FleetService_ListHosts_FullMethodName: {roles: operators}, // lists what concerns sets that the caller may use
	espalierv1.FleetService_GetHost_FullMethodName:   {roles: operators},
	espalierv1.FleetService_SetList_FullMethodName:   {roles: admins},
	espalierv1.FleetService_SetOrders_FullMethodName: {roles: admins},

	espalierv1.TrustService_Enroll_FullMethodName:           {anyone: true},                    // the token says who it is
	espalierv1.TrustService_RenewCertificate_FullMethodName: {roles: []pki.Role{pki.RoleHost}}, // an operator logs in anew
	espalierv1.TrustService_CreateToken_FullMethodName:      {roles: admins},
	espalierv1.TrustService_Revoke_FullMethodName:           {roles: admins},
	espalierv1.TrustService_Audit_FullMethodName:            {roles: admins},

	healthv1.Health_Check_FullMethodName:                                   {anyone: true}, // up or not, and nothing else
	healthv1.Health_Watch_FullMethodName:                                   {anyone: true},
	healthv1.Health_List_FullMethodName:                                    {anyone: true},
	reflectionv1.ServerReflection_ServerReflectionInfo_FullMethodName:      {roles: operators},
	reflectionv1alpha.ServerReflection_ServerReflectionInfo_FullMethodName: {roles: operators},
}

// caller is who makes a call.
type caller struct {
	pki.Identity // zero: nobody has shown a certificate
	trusted      bool
	fleet        *fleet.Fleet // whose lists say which sets are a host's
}

// String returns who it is, as logs have it.
func (c *caller) String() string {
	if c.IsZero() {
		return "nobody"
	}
	return c.Identity.String()
}

type callerKey struct{}

// callerOf returns who makes the call that ctx is of.
func callerOf(ctx context.Context) *caller {
	if c, ok := ctx.Value(callerKey{}).(*caller); ok {
		return c
	}
	return nobody
}

var (
	nobody = &caller{}
	local  = &caller{trusted: true} // who is on this machine, where there is no TLS
)

// mayUse reports whether a caller whom the rules admit may name the set.
func (c *caller) mayUse(set desired.Name) bool {
	switch {
	case c.trusted:
		return true
	case c.Role == pki.RoleHost:
		return c.fleet.Mirrors(c.Name, set)
	default:
		return c.Role.Operator() && c.MayUse(set)
	}
}

// identify returns who makes a call, or seems to, and why nobody can who shows
// such a certificate. Without TLS everybody is trusted: the server listens on loopback.
func (s *Server) identify(ctx context.Context) (*caller, error) {
	if s.options.Trust == nil {
		return local, nil
	}
	p, _ := peer.FromContext(ctx)
	if p == nil {
		return nobody, status.Error(codes.Unauthenticated, "the connection has no peer")
	}
	info, ok := p.AuthInfo.(*peerInfo)
	if !ok {
		return nobody, status.Error(codes.Unauthenticated, "the connection is not over TLS")
	}
	c := &info.caller
	if c.IsZero() {
		return c, nil
	}
	if !time.Now().Before(info.expires) {
		return c, status.Errorf(codes.Unauthenticated, "the certificate of %v has expired", c)
	}
	if s.guard.revoked(c.Identity) {
		return c, errRevokedCaller(c)
	}
	if premature(c.Identity) {
		return c, status.Errorf(codes.Unauthenticated, "the certificate of %v was issued in the future, by the server's clock", c)
	}
	return c, nil
}

func errRevokedCaller(c *caller) error {
	return status.Errorf(codes.Unauthenticated, "the certificate of %v was revoked", c)
}

// admit returns who makes a call, if the rules allow it at all.
func (s *Server) admit(ctx context.Context, method string) (*caller, rule, error) {
	c, err := s.identify(ctx)
	if err != nil {
		return c, rule{}, err
	}
	r, ok := access[method]
	switch {
	case !ok:
		return c, rule{}, status.Errorf(codes.PermissionDenied, "nobody may call %s", method)
	case c.trusted, r.anyone, slices.Contains(r.roles, c.Role):
		return c, r, nil
	case c.IsZero():
		return c, rule{}, status.Error(codes.Unauthenticated, "this call needs a certificate")
	default:
		return c, rule{}, status.Errorf(codes.PermissionDenied, "%v may not call %s", c.Identity, method)
	}
}

// errForeign is what those are told who name a set that isn't theirs: the same
// as about one that doesn't exist.
func errForeign(set string) error { return fmt.Errorf("%w: %s", store.ErrNotFound, set) }

// allows returns nil if the caller may send the message.
func (r rule) allows(c *caller, message any) error {
	if c.trusted {
		return nil
	}
	if r.adminOnly != nil && r.adminOnly(message) && c.Role != pki.RoleAdmin {
		return status.Errorf(codes.PermissionDenied, "%v may not do that: it takes an admin", c.Identity)
	}
	if r.set == nil {
		return nil
	}
	if set := r.set(message); set != "" && !c.mayUse(desired.Name(set)) {
		return wire.ToStatus(errForeign(set))
	}
	return nil
}

// checkUnary lets calls through that the rules allow.
func (s *Server) checkUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	c, r, err := s.admit(ctx, info.FullMethod)
	if err == nil {
		err = r.allows(c, req)
	}
	if err != nil {
		s.logDenied(ctx, c, info.FullMethod, err)
		return nil, err
	}
	return handler(context.WithValue(ctx, callerKey{}, c), req)
}

// checkStream lets streams through that the rules allow, and looks at each
// message that comes.
func (s *Server) checkStream(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	c, r, err := s.admit(stream.Context(), info.FullMethod)
	if err != nil {
		s.logDenied(stream.Context(), c, info.FullMethod, err)
		return err
	}
	ctx := context.WithValue(stream.Context(), callerKey{}, c)
	checked := &checkedStream{ServerStream: stream, ctx: ctx, rule: r, caller: c}
	err = handler(server, checked)
	if checked.denied != nil {
		s.logDenied(ctx, c, info.FullMethod, checked.denied)
		return checked.denied
	}
	return err
}

type checkedStream struct {
	grpc.ServerStream
	ctx    context.Context //nolint:containedctx // the stream's own, with the caller
	rule   rule
	caller *caller
	denied error
}

func (c *checkedStream) Context() context.Context { return c.ctx }

func (c *checkedStream) RecvMsg(m any) error {
	if err := c.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	if c.denied = c.rule.allows(c.caller, m); c.denied != nil {
		return errDenied
	}
	return nil
}

// errDenied is what a handler is told of a message that the rules don't allow;
// checkStream says the rest to the caller and to the log.
var errDenied = errors.New("the rules don't allow this")

// logDenied says who was refused what, and records it: once in QuietTime for
// each call by each of them, since they can repeat it at will, with ever other
// words.
func (s *Server) logDenied(ctx context.Context, c *caller, method string, err error) {
	from := addressOf(ctx)
	if !s.denied.first(c.String(), from+" "+method, time.Now()) {
		return
	}
	s.log.Warn("call refused", "method", method, "who", c.String(), "from", from, "error", status.Convert(err).Message())
	_ = s.note(context.WithValue(ctx, callerKey{}, c), audit.Record{What: "refused", On: method}, err)
}
