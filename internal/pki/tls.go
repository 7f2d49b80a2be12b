package pki

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"espalier/internal/durable"
)

// Credentials are a key, its certificate and the authority that both trust. They
// lie in one file: key, certificate, authority.
type Credentials struct {
	key       crypto.Signer
	cert      *x509.Certificate
	authority *x509.Certificate
	identity  Identity
}

// NewCredentials returns those of a key whose certificate the authority signed.
func NewCredentials(key crypto.Signer, cert, authority *x509.Certificate) (*Credentials, error) {
	if !belong(key, cert) {
		return nil, errors.New("the certificate is not for this key")
	}
	if err := cert.CheckSignatureFrom(authority); err != nil {
		return nil, fmt.Errorf("the certificate was not signed by the authority: %w", err)
	}
	id, err := IdentityOf(cert)
	if err == nil {
		err = checkUsage(cert, id.Role)
	}
	if err != nil {
		return nil, err
	}
	return &Credentials{key: key, cert: cert, authority: authority, identity: id}, nil
}

// checkUsage returns an error unless the certificate is for the side of the role:
// the other would end the handshake, and not say why.
func checkUsage(cert *x509.Certificate, role Role) error {
	need, name := x509.ExtKeyUsageClientAuth, "clientAuth"
	if role == RoleServer {
		need, name = x509.ExtKeyUsageServerAuth, "serverAuth"
	}
	if len(cert.ExtKeyUsage)+len(cert.UnknownExtKeyUsage) == 0 { // it is for anything
		return nil
	}
	for _, usage := range cert.ExtKeyUsage {
		if usage == need || usage == x509.ExtKeyUsageAny {
			return nil
		}
	}
	return fmt.Errorf("the certificate is one of role %s, and lacks the extended key usage %s", role, name)
}

// belong reports whether the certificate is for the key.
func belong(key crypto.Signer, cert *x509.Certificate) bool {
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(cert.PublicKey)
}

// ReadServer returns a server's credentials that somebody else has made: a
// certificate that names a server as IdentityOf reads it, its key, and the
// authority that has signed it and those of agents and operators.
func ReadServer(cert, key, authority string) (*Credentials, error) {
	var all []byte
	if info, err := os.Stat(key); err == nil && info.Mode().Perm()&0o007 != 0 { // a group may: that is how keys are handed to services
		return nil, fmt.Errorf("key %s: everybody may read or write it (mode %v); run chmod o=", key, info.Mode().Perm())
	}
	for _, path := range []string{key, cert, authority} {
		text, err := readPEM(path)
		if err != nil {
			return nil, err
		}
		all = append(append(all, text...), '\n')
	}
	c, err := decodeCredentials(all)
	if err == nil && c.identity.Role != RoleServer {
		err = fmt.Errorf("it is that of %v, not of a server", c.identity)
	}
	if err != nil {
		return nil, fmt.Errorf("certificate %s, key %s, authority %s: %w", cert, key, authority, err)
	}
	return c, nil
}

// decodeCredentials reads a key, its certificate and the authority's.
func decodeCredentials(text []byte) (*Credentials, error) {
	key, certs, err := decodePEM(text)
	if err != nil {
		return nil, err
	}
	if key == nil || len(certs) != 2 {
		return nil, fmt.Errorf("want a key, its certificate and the authority's, got %d certificates", len(certs))
	}
	return NewCredentials(key, certs[0], certs[1])
}

// Accept returns the credentials of a key and of what a server has signed for
// it.
func Accept(key crypto.Signer, cert, authority []byte) (*Credentials, error) {
	c, err := x509.ParseCertificate(cert)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	a, err := x509.ParseCertificate(authority)
	if err != nil {
		return nil, fmt.Errorf("authority's certificate: %w", err)
	}
	return NewCredentials(key, c, a)
}

// ReadCredentials reads the file at path. Nobody but its owner may read it.
func ReadCredentials(path string) (*Credentials, error) {
	text, err := readPEM(path)
	if err != nil {
		return nil, err
	}
	if err := checkMode(path); err != nil {
		return nil, err
	}
	c, err := decodeCredentials(text)
	if err != nil {
		return nil, fmt.Errorf("credentials %s: %w", path, err)
	}
	return c, nil
}

// Write replaces the file at path.
func (c *Credentials) Write(path string) error {
	text, err := encodePEM(c.key, c.cert, c.authority)
	if err != nil {
		return err
	}
	return durable.WriteFile(path, text, keyMode)
}

// Identity returns who bears them.
func (c *Credentials) Identity() Identity { return c.identity }

// Expires returns when they are good no longer.
func (c *Credentials) Expires() time.Time { return c.cert.NotAfter }

// ByToken reports whether new ones can be had for a token, that is, whether they
// are of an authority that espalier has made. It goes by the authority's name, and
// is good for advice alone.
func (c *Credentials) ByToken() bool { return c.authority.Subject.CommonName == authorityName }

// Authority returns the certificate of the authority.
func (c *Credentials) Authority() *x509.Certificate { return c.authority }

func (c *Credentials) tls() *tls.Certificate {
	return &tls.Certificate{Certificate: [][]byte{c.cert.Raw, c.authority.Raw}, PrivateKey: c.key, Leaf: c.cert}
}

// Holder holds credentials that are renewed while they are in use. It is safe
// for concurrent use.
type Holder struct{ current atomic.Pointer[Credentials] }

// NewHolder returns a Holder of c.
func NewHolder(c *Credentials) *Holder {
	h := &Holder{}
	h.Set(c)
	return h
}

// Set replaces what is held: connections that are made from then on use it.
func (h *Holder) Set(c *Credentials) { h.current.Store(c) }

// Get returns what is held.
func (h *Holder) Get() *Credentials { return h.current.Load() }

// ServerConfig returns the TLS configuration of a server: TLS 1.3 alone, and a
// certificate of the authority or none from the client; what who may do is
// decided call by call.
func (h *Holder) ServerConfig() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return h.Get().tls(), nil },
		ClientAuth:             tls.VerifyClientCertIfGiven,
		ClientCAs:              pool(h.Get().authority),
		VerifyConnection:       verifyClient,
		SessionTicketsDisabled: true, // connections live long, and every one shows its certificate
	}
}

// verifyClient refuses a certificate that the authority has not signed itself:
// who it lets sign others' would else let in whom they like.
func verifyClient(state tls.ConnectionState) error {
	for _, chain := range state.VerifiedChains {
		if len(chain) == 2 {
			return nil
		}
	}
	if len(state.PeerCertificates) == 0 {
		return nil
	}
	return fmt.Errorf("%w: the authority has not signed it itself", ErrIdentity)
}

// ClientConfig returns the TLS configuration of an agent or operator, which
// talks to a server of its own authority alone. The server is told by its role,
// not by its address, which may change.
func (h *Holder) ClientConfig() *tls.Config {
	c := clientConfig(func(chain []*x509.Certificate) (*x509.Certificate, error) { return h.Get().authority, nil })
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return h.Get().tls(), nil }
	return c
}

// ErrImpostor is what errors match that say that the other side is not the
// server that it should be.
var ErrImpostor = errors.New("this is not the server that it should be")

// JoinConfig returns the TLS configuration of who has nothing but a token: the
// server has to be one of the authority with that fingerprint.
func JoinConfig(authority Fingerprint) *tls.Config {
	return clientConfig(func(chain []*x509.Certificate) (*x509.Certificate, error) {
		for _, c := range chain {
			if FingerprintOf(c) == authority && c.IsCA {
				return c, nil
			}
		}
		return nil, fmt.Errorf("%w: it does not show the authority that the token names", ErrImpostor)
	})
}

// clientConfig verifies that the server's certificate was signed by the
// authority that root returns, and is that of a server.
func clientConfig(root func(chain []*x509.Certificate) (*x509.Certificate, error)) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection does it, by the role and not by the address
		VerifyConnection: func(state tls.ConnectionState) error {
			authority, err := root(state.PeerCertificates)
			if err != nil {
				return err
			}
			return verifyServer(state.PeerCertificates[0], authority)
		},
	}
}

func verifyServer(cert, authority *x509.Certificate) error {
	_, err := cert.Verify(x509.VerifyOptions{Roots: pool(authority), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrImpostor, err)
	}
	id, err := IdentityOf(cert)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrImpostor, err)
	}
	if id.Role != RoleServer {
		return fmt.Errorf("%w: its certificate is that of %v", ErrImpostor, id)
	}
	return nil
}

func pool(cert *x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(cert)
	return p
}
