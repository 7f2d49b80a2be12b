package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"espalier/internal/desired"
	"espalier/internal/pki"
	"espalier/internal/wire"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/store"
)

// ErrNotJoined is what errors match that say that a host has no credentials, or
// none that are good any more.
var ErrNotJoined = errors.New("this host has not joined")

// JoinOptions says where and how to join.
type JoinOptions struct {
	// Server is the orchestrator's address, host:port, or several separated by
	// commas: the first that answers is used.
	Server string
	// Dir is the agent's data folder; it is made if need be.
	Dir string
	// Token is what 'espalier token create' printed for this host.
	Token pki.Token
	// Host is this host's name, for which the token has to be; empty: whichever
	// it is for.
	Host desired.Name
}

// Join exchanges a token for credentials, which it leaves in the data folder,
// and returns who the server says this host is. Where there are credentials that
// are still good, it leaves them, and the token, alone.
func Join(ctx context.Context, o JoinOptions) (pki.Identity, error) {
	path := filepath.Join(o.Dir, store.IdentityFile)
	if c, err := pki.ReadCredentials(path); err == nil && time.Now().Before(c.Expires()) {
		return c.Identity(), nil
	}
	if err := store.Free(o.Dir); err != nil { // before the token is used up
		return pki.Identity{}, err
	}
	var c *pki.Credentials
	err := wire.ErrUnreachable
	for address := range strings.SplitSeq(o.Server, ",") {
		if !errors.Is(err, wire.ErrUnreachable) {
			break
		}
		if c, err = o.enroll(ctx, address); err != nil {
			err = fmt.Errorf("join %s: %w", address, err)
		}
	}
	if err != nil {
		return pki.Identity{}, err
	}
	return c.Identity(), c.Write(path)
}

// enroll is Enroll at one server.
func (o *JoinOptions) enroll(ctx context.Context, address string) (*pki.Credentials, error) {
	conn, err := dial(address, credentials.NewTLS(pki.JoinConfig(o.Token.Authority)), &traffic{})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	call, silence := withSilence(ctx, CallTimeout)
	defer silence.stop()
	c, err := Enroll(call, conn, o.Token, pki.Want{Roles: []pki.Role{pki.RoleHost}, Name: o.Host})
	return c, silence.explain(err)
}

// Enroll exchanges a token for credentials of a new key. A token for another
// than is wanted is not used up. conn has to be made with pki.JoinConfig. An error
// of the call is the call's own.
func Enroll(ctx context.Context, conn grpc.ClientConnInterface, token pki.Token, want pki.Want) (*pki.Credentials, error) {
	key, err := pki.NewKey()
	if err != nil {
		return nil, err
	}
	request, err := pki.Request(key)
	if err != nil {
		return nil, err
	}
	req := &espalierv1.EnrollRequest{Secret: token.Secret[:], Request: request, Name: string(want.Name)}
	for _, role := range want.Roles {
		req.Roles = append(req.Roles, string(role))
	}
	resp, err := espalierv1.NewTrustServiceClient(conn).Enroll(ctx, req)
	if err != nil {
		return nil, err
	}
	c, err := pki.Accept(key, resp.GetCertificate(), resp.GetAuthority())
	if err != nil {
		return nil, err
	}
	if pki.FingerprintOf(c.Authority()) != token.Authority {
		return nil, fmt.Errorf("%w: what it has signed is of another authority than the token's", pki.ErrImpostor)
	}
	if !want.Allows(c.Identity()) {
		return nil, fmt.Errorf("%w: it has let %v in, and is used up", wire.ErrOtherToken, c.Identity())
	}
	return c, nil
}

// Joined returns the credentials in a data folder, which say who this host is, or
// an error that matches ErrNotJoined.
func Joined(dir string) (*pki.Credentials, error) {
	c, err := pki.ReadCredentials(filepath.Join(dir, store.IdentityFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: there are no credentials in %s; run 'espalier agent' with --join and a token, "+
			"or put those there, as %s, that an authority of your own has signed", ErrNotJoined, dir, store.IdentityFile)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrNotJoined, err)
	case !time.Now().Before(c.Expires()):
		do := "run 'espalier agent' with --join and a new token"
		if !c.ByToken() {
			do = "have your authority sign a new one"
		}
		return nil, fmt.Errorf("%w: its certificate, in %s, expired at %s; %s", ErrNotJoined, dir, c.Expires().Format(time.RFC3339), do)
	}
	return c, nil
}

// identity is a host's credentials, which are renewed in time.
type identity struct {
	holder *pki.Holder
	path   string
	next   time.Time // when to renew
}

// openIdentity reads the credentials in the data folder, which have to be the
// host's.
func openIdentity(o *Options) (*identity, error) {
	c, err := Joined(o.Dir)
	if err != nil {
		return nil, err
	}
	if id := c.Identity(); id.Role != pki.RoleHost || id.Name != o.Host {
		return nil, fmt.Errorf("%w: the credentials in %s are those of %v, not of host %q", ErrNotJoined, o.Dir, id, o.Host)
	}
	return &identity{
		holder: pki.NewHolder(c), path: filepath.Join(o.Dir, store.IdentityFile), next: renewal(c),
	}, nil
}

// renewal returns when credentials should be renewed: when half of their life is
// over, give or take a tenth, so that a fleet that was made in an hour doesn't
// come back in one.
func renewal(c *pki.Credentials) time.Time {
	half := c.Expires().Sub(c.Identity().Issued) / 2
	return c.Identity().Issued.Add(time.Duration(float64(half) * (0.9 + 0.2*rand.Float64())))
}

// renew exchanges the agent's certificate for a new one, if it is time. What
// goes wrong is tried again a minute later: there is half a life left.
func (a *Agent) renew(ctx context.Context) {
	i := a.identity
	if i == nil || time.Now().Before(i.next) {
		return
	}
	c, err := a.exchange(ctx)
	if err == nil {
		err = c.Write(i.path)
	}
	if err == nil {
		i.holder.Set(c)
		i.next = renewal(c)
		err = a.redial() // the connection still shows the old one
	}
	if err != nil {
		i.next = time.Now().Add(renewRetry)
		a.log.Warn("the certificate was not renewed", "error", err, "expires", i.holder.Get().Expires())
		return
	}
	a.log.Info("the certificate was renewed", "expires", c.Expires())
}

// exchange asks for a certificate for a new key.
func (a *Agent) exchange(ctx context.Context) (*pki.Credentials, error) {
	key, err := pki.NewKey()
	if err != nil {
		return nil, err
	}
	request, err := pki.Request(key)
	if err != nil {
		return nil, err
	}
	call, silence := withSilence(ctx, CallTimeout)
	defer silence.stop()
	resp, err := espalierv1.NewTrustServiceClient(a.links[0]).RenewCertificate(call, &espalierv1.RenewCertificateRequest{Request: request})
	if err != nil {
		return nil, silence.explain(err)
	}
	c, err := pki.Accept(key, resp.GetCertificate(), resp.GetAuthority())
	if err != nil {
		return nil, err
	}
	old := a.identity.holder.Get()
	if c.Identity().String() != old.Identity().String() || !c.Authority().Equal(old.Authority()) {
		return nil, fmt.Errorf("%w: the new certificate is for %v, or of another authority", pki.ErrImpostor, c.Identity())
	}
	return c, nil
}
