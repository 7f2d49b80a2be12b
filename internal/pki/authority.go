package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"espalier/internal/desired"
	"espalier/internal/durable"
)

// Fingerprint is the SHA-256 digest of an authority's certificate, by which a
// host that has never seen it tells it from any other.
type Fingerprint [sha256.Size]byte

// FingerprintOf returns that of a certificate.
func FingerprintOf(cert *x509.Certificate) Fingerprint { return sha256.Sum256(cert.Raw) }

// Authority signs certificates.
type Authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

const (
	authorityName = "espalier authority"
	authorityFile = "ca.pem" // key and certificate in one file, so that they can't be apart
	keyMode       = 0o600
)

// MakeAuthority makes an authority, and the folder dir, in which it leaves key and
// certificate. Where there is one, it returns an error that matches fs.ErrExist.
func MakeAuthority(dir string) (*Authority, error) {
	if err := durable.MakeFolder(dir); err != nil {
		return nil, err
	}
	if err := checkMode(dir); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, authorityFile)
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.Join(fmt.Errorf("authority %s: %w", path, fs.ErrExist), err)
	}
	return makeAuthority(path)
}

// OpenAuthority returns the authority whose key and certificate lie in dir, which
// nobody but its owner may read. Where there is none, it returns an error that
// matches fs.ErrNotExist.
func OpenAuthority(dir string) (*Authority, error) {
	path := filepath.Join(dir, authorityFile)
	text, err := readPEM(path)
	if err == nil {
		err = errors.Join(checkMode(dir), checkMode(path))
	}
	if err != nil {
		return nil, err
	}
	key, certs, err := decodePEM(text)
	if err == nil && (key == nil || len(certs) != 1 || !certs[0].IsCA || !belong(key, certs[0])) {
		err = errors.New("want a key and the certificate of an authority that belongs to it")
	}
	if err != nil {
		return nil, fmt.Errorf("authority %s: %w", path, err)
	}
	if now := time.Now(); now.Before(certs[0].NotBefore) || now.After(certs[0].NotAfter) {
		return nil, fmt.Errorf("authority %s: it is good from %s to %s, and by this machine's clock it is %s", path,
			certs[0].NotBefore.Format(time.RFC3339), certs[0].NotAfter.Format(time.RFC3339), now.Format(time.RFC3339))
	}
	return &Authority{cert: certs[0], key: key}, nil
}

func makeAuthority(path string) (*Authority, error) {
	key, err := NewKey()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: authorityName},
		NotBefore: now.Add(-Skew), NotAfter: now.Add(AuthorityLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	text, err := encodePEM(key, cert)
	if err != nil {
		return nil, err
	}
	if err := durable.WriteFile(path, text, keyMode); err != nil {
		return nil, fmt.Errorf("keep authority: %w", err)
	}
	return &Authority{cert: cert, key: key}, nil
}

// NewKey returns a new key: P-256, whose handshakes cost the least.
func NewKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	return key, nil
}

func serial() *big.Int {
	b := make([]byte, 16)
	rand.Read(b)
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b)
}

// Fingerprint returns that of the authority's certificate.
func (a *Authority) Fingerprint() Fingerprint { return FingerprintOf(a.cert) }

// Certificate returns the authority's own.
func (a *Authority) Certificate() *x509.Certificate { return a.cert }

// CertificateRequest is a key that somebody has, and wants a certificate for.
type CertificateRequest struct{ key crypto.PublicKey }

// ParseRequest reads a DER-encoded PKCS #10, of which only the key counts: who
// its bearer is, the authority says. An error matches desired.ErrInvalid.
func ParseRequest(request []byte) (*CertificateRequest, error) {
	if len(request) > MaxRequestBytes {
		return nil, fmt.Errorf("%w certificate request: %d bytes, at most %d are allowed", desired.ErrInvalid, len(request), MaxRequestBytes)
	}
	r, err := x509.ParseCertificateRequest(request)
	if err == nil {
		err = r.CheckSignature() // who asks has the key
	}
	if err != nil {
		return nil, fmt.Errorf("%w certificate request: %w", desired.ErrInvalid, err)
	}
	switch key := r.PublicKey.(type) {
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() {
			return nil, fmt.Errorf("%w certificate request: its curve is not P-256", desired.ErrInvalid)
		}
	case ed25519.PublicKey:
	default:
		return nil, fmt.Errorf("%w certificate request: its key is neither of P-256 nor of Ed25519", desired.ErrInvalid)
	}
	return &CertificateRequest{key: r.PublicKey}, nil
}

// Sign returns a certificate for the key of a request that says id and what id's
// role may do. The time of issue is now. An error that matches
// desired.ErrInvalid is about id.
func (a *Authority) Sign(r *CertificateRequest, id Identity) (*x509.Certificate, error) {
	return a.issue(r.key, id)
}

// Life returns how long a certificate of the role is good.
func (r Role) Life() time.Duration {
	switch {
	case r == RoleServer:
		return ServerLife
	case r.Operator():
		return OperatorLife
	}
	return LeafLife
}

// Make returns a new key and a certificate that says id.
func (a *Authority) Make(id Identity) (*Credentials, error) {
	key, err := NewKey()
	if err != nil {
		return nil, err
	}
	cert, err := a.issue(key.Public(), id)
	if err != nil {
		return nil, err
	}
	return NewCredentials(key, cert, a.cert)
}

func (a *Authority) issue(key crypto.PublicKey, id Identity) (*x509.Certificate, error) {
	now := time.Now()
	id.Issued = now
	if err := id.Check(); err != nil {
		return nil, err
	}
	usage := x509.ExtKeyUsageClientAuth
	if id.Role == RoleServer {
		usage = x509.ExtKeyUsageServerAuth
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: id.String()},
		NotBefore: now.Add(-Skew), NotAfter: now.Add(id.Role.Life()),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{usage}, URIs: []*url.URL{id.url()},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	return cert, nil
}

// Request returns a request for a certificate of key.
func Request(key crypto.Signer) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("request certificate: %w", err)
	}
	return der, nil
}

// readPEM reads a file of keys and certificates.
func readPEM(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read keys: %w", err)
	}
	if info.Size() > MaxPEMBytes {
		return nil, fmt.Errorf("read keys: %s has %d bytes, at most %d are allowed", path, info.Size(), MaxPEMBytes)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read keys: %w", err)
	}
	return text, nil
}

// checkMode returns an error if others may read or write the file or folder at
// path. It is not mended: who could read a key may have.
func checkMode(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("read keys: %w", err)
	}
	mode := "600"
	if info.IsDir() {
		mode = "700"
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("keys %s: others may read or write them (mode %v); run chmod %s", path, info.Mode().Perm(), mode)
	}
	return nil
}

// encodePEM returns a key, unless it is nil, and certificates.
func encodePEM(key crypto.Signer, certs ...*x509.Certificate) ([]byte, error) {
	var text []byte
	if key != nil {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, fmt.Errorf("encode key: %w", err)
		}
		text = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	}
	for _, c := range certs {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return text, nil
}

// decodePEM returns the key, nil if there is none, and the certificates.
func decodePEM(text []byte) (key crypto.Signer, certs []*x509.Certificate, err error) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return key, certs, nil
		}
		switch block.Type {
		case "CERTIFICATE":
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, nil, fmt.Errorf("decode certificate: %w", err)
			}
			certs = append(certs, c)
		case "PRIVATE KEY":
			k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return nil, nil, errors.New("decode key: it is malformed") // and says no more
			}
			var ok bool
			if key, ok = k.(crypto.Signer); !ok {
				return nil, nil, errors.New("decode key: it can't sign")
			}
		default:
			return nil, nil, fmt.Errorf("a block of type %.64q is neither a key nor a certificate", block.Type)
		}
	}
}
