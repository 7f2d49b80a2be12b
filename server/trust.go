package server

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"espalier/internal/audit"
	"espalier/internal/desired"
	"espalier/internal/pki"
	"espalier/internal/wire"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/store"
)

// Trust is how a server knows who calls, and proves who it is.
type Trust struct {
	// Credentials are the server's own.
	Credentials *pki.Holder
	// Authority signs what it issues; nil: certificates come from elsewhere, and
	// there are no tokens.
	Authority *pki.Authority
}

// MachineAdmin is the operator for whom a server with an authority of its own
// leaves credentials on its machine.
var MachineAdmin = pki.Identity{Role: pki.RoleAdmin, Name: "root"}

// renewOwn makes new credentials for the server itself when half of their life
// is over.
func (t *Trust) renewOwn(ctx context.Context, log *slog.Logger) error {
	for t != nil && t.Authority != nil {
		c := t.Credentials.Get()
		id := c.Identity()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Until(id.Issued.Add(c.Expires().Sub(id.Issued) / 2))):
		}
		c, err := t.Authority.Make(id)
		if err != nil {
			return fmt.Errorf("renew the server's certificate: %w", err)
		}
		t.Credentials.Set(c)
		log.Info("the server's certificate was renewed", "expires", c.Expires())
	}
	return nil
}

// trustService says who may take part.
type trustService struct {
	espalierv1.UnimplementedTrustServiceServer
	server *Server
}

// What the audit log calls it when something is issued to somebody.
const (
	whatToken  = "create token"
	whatEnroll = "enroll"
)

// grant is what a token is good for, as the store keeps it.
type grant struct {
	Role pki.Role     `json:"role"`
	Name desired.Name `json:"name"`
	Sets []string     `json:"sets,omitempty"`
	Made time.Time    `json:"made"`
}

// scope says in words which sets the bearer may use.
func (g grant) scope() string {
	switch {
	case g.Role == pki.RoleHost:
		return "for the sets on its list"
	case len(g.Sets) == 0:
		return "for all sets"
	}
	return "for sets " + strings.Join(g.Sets, ",")
}

// identity returns who a token lets in. It is issued when the token is made: to
// revoke somebody is to revoke the tokens, too, that wait for them.
func (g grant) identity() pki.Identity {
	return pki.Identity{Role: g.Role, Name: g.Name, Sets: g.Sets, Issued: g.Made}
}

// authority returns what signs certificates, or an error for who calls.
func (t trustService) authority() (*pki.Authority, error) {
	switch trust := t.server.options.Trust; {
	case trust == nil:
		return nil, wire.ToStatus(fmt.Errorf("%w: it runs with --insecure, has no tokens, and signs no certificates", wire.ErrUnsupported))
	case trust.Authority == nil:
		return nil, wire.ToStatus(fmt.Errorf("%w: it runs with certificates of your own, has no tokens, and signs no certificates: "+
			"the authority that --client-ca names does", wire.ErrUnsupported))
	default:
		return trust.Authority, nil
	}
}

func (t trustService) CreateToken(ctx context.Context, req *espalierv1.CreateTokenRequest) (*espalierv1.CreateTokenResponse, error) {
	a, err := t.authority()
	if err != nil {
		return nil, err
	}
	g := grant{Role: pki.Role(req.GetRole()), Name: desired.Name(req.GetName()), Sets: req.GetSets(), Made: time.Now().Truncate(time.Millisecond)}
	ttl := time.Duration(req.GetTtlSeconds()) * time.Second
	if ttl == 0 {
		ttl = DefaultTokenLife
	}
	err = g.identity().Check()
	switch {
	case err != nil:
	case g.Role == pki.RoleServer:
		err = fmt.Errorf("%w token: a server makes its own certificate", desired.ErrInvalid)
	case ttl > MaxTokenLife:
		err = fmt.Errorf("%w token: it may live for %v at most", desired.ErrInvalid, MaxTokenLife)
	}
	if err != nil {
		return nil, wire.ToStatus(err)
	}
	token := a.NewToken()
	encoded, err := json.Marshal(g)
	if err == nil {
		err = t.server.store.PutToken(token.Hash(), encoded, time.Now().Add(ttl))
	}
	if err := t.server.record(ctx, audit.Record{What: whatToken, On: g.identity().String(), Why: fmt.Sprintf("good for %v, %s", ttl, g.scope())}, err); err != nil {
		return nil, wire.ToStatus(err)
	}
	return &espalierv1.CreateTokenResponse{Secret: token.Secret[:], Authority: token.Authority[:]}, nil
}

func (t trustService) Enroll(ctx context.Context, req *espalierv1.EnrollRequest) (*espalierv1.EnrollResponse, error) {
	a, err := t.authority()
	if err != nil {
		return nil, err
	}
	request, err := pki.ParseRequest(req.GetRequest()) // before the token is used up
	if err != nil {
		return nil, wire.ToStatus(err)
	}
	g, err := t.take(req)
	if err != nil { // anyone can make it fail
		t.server.logDenied(ctx, callerOf(ctx), espalierv1.TrustService_Enroll_FullMethodName, err)
		return nil, wire.ToStatus(err)
	}
	cert, err := t.issue(a, request, g.identity())
	if errors.Is(err, errRevoked) {
		err = store.ErrNoToken
	}
	if err := t.server.record(ctx, audit.Record{What: whatEnroll, On: g.identity().String(), Why: g.scope()}, err); err != nil {
		return nil, wire.ToStatus(err)
	}
	if g.Role == pki.RoleHost {
		t.server.fleet.Enrolled(g.Name)
	}
	return &espalierv1.EnrollResponse{Certificate: cert.Raw, Authority: a.Certificate().Raw}, nil
}

// take uses a token up that is for who the client wants to be, and returns what
// it grants. What it is for, only its bearer is told.
func (t trustService) take(req *espalierv1.EnrollRequest) (g grant, err error) {
	want := pki.Want{Name: desired.Name(req.GetName())}
	for _, role := range req.GetRoles() {
		want.Roles = append(want.Roles, pki.Role(role))
	}
	err = t.server.store.TakeToken(pki.HashSecret(req.GetSecret()), func(encoded []byte) error {
		if err := json.Unmarshal(encoded, &g); err != nil {
			return fmt.Errorf("token: %w", err)
		}
		if id := g.identity(); !want.Allows(id) && !t.server.guard.revoked(id) { // it is none, else, as issue says
			return fmt.Errorf("%w: it lets %v in, and was not used up", wire.ErrOtherToken, id)
		}
		return nil
	})
	return g, err
}

var errRevoked = errors.New("it was revoked meanwhile")

// issue signs a certificate for who has proved to be old, unless that is worth
// nothing any more once the certificate is made: see guard.revoke.
func (t trustService) issue(a *pki.Authority, r *pki.CertificateRequest, old pki.Identity) (*x509.Certificate, error) {
	cert, err := a.Sign(r, old)
	if err == nil && t.server.guard.revoked(old) {
		return nil, errRevoked
	}
	return cert, err
}

// RenewCertificate is not audited: every host does it twice a day, and it
// changes nothing of who may do what.
func (t trustService) RenewCertificate(ctx context.Context, req *espalierv1.RenewCertificateRequest) (*espalierv1.RenewCertificateResponse, error) {
	a, err := t.authority()
	if err != nil {
		return nil, err
	}
	request, err := pki.ParseRequest(req.GetRequest())
	if err != nil {
		return nil, wire.ToStatus(err)
	}
	cert, err := t.issue(a, request, callerOf(ctx).Identity)
	if errors.Is(err, errRevoked) {
		err = errRevokedCaller(callerOf(ctx))
	}
	if err != nil {
		return nil, wire.ToStatus(err)
	}
	return &espalierv1.RenewCertificateResponse{Certificate: cert.Raw, Authority: a.Certificate().Raw}, nil
}

func (t trustService) Revoke(ctx context.Context, req *espalierv1.RevokeRequest) (*espalierv1.RevokeResponse, error) {
	if t.server.guard == nil {
		return nil, wire.ToStatus(fmt.Errorf("%w: it runs with --insecure, and knows nobody to revoke", wire.ErrUnsupported))
	}
	id := pki.Identity{Role: pki.Role(req.GetRole()), Name: desired.Name(req.GetName())}
	if err := id.Check(); err != nil {
		return nil, wire.ToStatus(err)
	}
	if len(req.GetWhy()) > store.MaxWhyBytes { // or it could not be recorded
		return nil, wire.ToStatus(fmt.Errorf("%w reason: %d bytes, at most %d are allowed", desired.ErrInvalid, len(req.GetWhy()), store.MaxWhyBytes))
	}
	conn := connOf(ctx)
	if callerOf(ctx).String() == id.String() {
		defer t.server.guard.door.part(conn)
	}
	until, ended := t.server.guard.revoke(id.String(), conn) // first, so that nothing is issued meanwhile
	err := t.server.store.Revoke(id.String(), until)
	time.Sleep(time.Until(until.Truncate(time.Millisecond).Add(time.Millisecond))) // as finely as certificates tell; what comes after is good
	if err := t.server.record(ctx, audit.Record{What: "revoke", On: id.String(), Why: req.GetWhy()}, err); err != nil {
		return nil, wire.ToStatus(err)
	}
	t.server.log.Info("revoke", "who", who(ctx), "whom", id.String(), "connections", ended, "why", req.GetWhy())
	never := t.server.options.Trust.Authority != nil && id.String() != MachineAdmin.String() && t.server.issued.never(id.String())
	return &espalierv1.RevokeResponse{Connections: uint32(ended), NeverIssued: never}, nil
}
