// Package pki answers: who is at the other end of a connection? It makes the
// authority that an orchestrator signs certificates with, the certificates and
// one-time tokens, and the TLS configuration of each side.
//
// A certificate says who bears it in one URI of its subject's alternative names,
//
//	espalier://ROLE/NAME[?issued=MILLISECONDS][&sets=PATTERN,PATTERN…]
//
// and nothing else in it counts: not the common name, not DNS names. So a
// certificate of one role never passes for another, even though one authority
// has signed both (as it did in Nomad, CVE-2021-37218, and Consul,
// CVE-2021-37219).
package pki

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"espalier/internal/desired"
)

// Role is what the bearer of a certificate may be.
type Role string

// The roles.
const (
	RoleServer Role = "server" // an orchestrator
	RoleHost   Role = "host"   // an agent
	RoleAdmin  Role = "admin"  // an operator who may do everything
	RoleWriter Role = "writer" // an operator who may change some sets
	RoleReader Role = "reader" // an operator who may read some sets
)

// ParseRole returns s as a Role, or an error that matches desired.ErrInvalid.
func ParseRole(s string) (Role, error) {
	switch r := Role(s); r {
	case RoleServer, RoleHost, RoleAdmin, RoleWriter, RoleReader:
		return r, nil
	}
	return "", fmt.Errorf("%w role %.64q: there are server, host, admin, writer and reader", desired.ErrInvalid, s)
}

// Operators are the roles of a person or program that publishes.
var Operators = []Role{RoleAdmin, RoleWriter, RoleReader}

// Operator reports whether the role is one of Operators.
func (r Role) Operator() bool { return slices.Contains(Operators, r) }

// Identity is who bears a certificate.
type Identity struct {
	Role Role
	// Name is the host's or operator's; a server's is "server".
	Name desired.Name
	// Sets are patterns of the names of sets that a writer or reader may use,
	// where '*' stands for any run of characters; none: all sets. MaxPatterns at
	// most.
	Sets []string
	// Issued is when the certificate was made, to the millisecond; where it
	// doesn't say, when it began to be good. What was issued before its bearer
	// was revoked is worth nothing.
	Issued time.Time
}

// ErrIdentity is what errors about a certificate match that does not say who
// bears it, or says what can't be.
var ErrIdentity = errors.New("not a certificate of espalier")

// String returns the role and the name, as logs and audits have them.
func (i Identity) String() string { return string(i.Role) + "/" + string(i.Name) }

// IsZero reports whether i is nobody.
func (i Identity) IsZero() bool { return i.Role == "" }

// MayUse reports whether the bearer's patterns include the set. It says nothing
// of what the role may do with it.
func (i Identity) MayUse(set desired.Name) bool {
	if len(i.Sets) == 0 {
		return true
	}
	for _, pattern := range i.Sets {
		if ok, err := path.Match(pattern, string(set)); ok && err == nil {
			return true
		}
	}
	return false
}

// Check returns nil if i can be in a certificate, and otherwise an error that
// matches desired.ErrInvalid.
func (i Identity) Check() error {
	if _, err := ParseRole(string(i.Role)); err != nil {
		return err
	}
	if _, err := desired.ParseName(string(i.Name)); err != nil {
		return err
	}
	if len(i.Sets) > 0 && i.Role != RoleWriter && i.Role != RoleReader {
		return fmt.Errorf("%w identity: a %s can't be limited to sets", desired.ErrInvalid, i.Role)
	}
	if len(i.Sets) > MaxPatterns {
		return fmt.Errorf("%w identity: %d patterns of sets, at most %d are allowed", desired.ErrInvalid, len(i.Sets), MaxPatterns)
	}
	for _, pattern := range i.Sets {
		if err := checkPattern(pattern); err != nil {
			return err
		}
	}
	return nil
}

// checkPattern allows the characters of names, and '*'.
func checkPattern(pattern string) error {
	if len(pattern) <= desired.MaxNameBytes {
		if _, err := desired.ParseName("a" + strings.ReplaceAll(pattern, "*", "a") + "a"); err == nil && pattern != "" {
			return nil
		}
	}
	return fmt.Errorf("%w pattern %.300q: use the characters of a set's name, and '*' for any run of them", desired.ErrInvalid, pattern)
}

const scheme = "espalier"

// url returns i as it stands in a certificate.
func (i Identity) url() *url.URL {
	q := url.Values{}
	if !i.Issued.IsZero() {
		q.Set("issued", strconv.FormatInt(i.Issued.UnixMilli(), 10))
	}
	if len(i.Sets) > 0 {
		q.Set("sets", strings.Join(i.Sets, ","))
	}
	return &url.URL{Scheme: scheme, Host: string(i.Role), Path: "/" + string(i.Name), RawQuery: q.Encode()}
}

// IdentityOf returns who bears the certificate, which the caller has verified.
// An error matches ErrIdentity.
func IdentityOf(cert *x509.Certificate) (Identity, error) {
	if len(cert.URIs) != 1 {
		return Identity{}, fmt.Errorf("%w: it has %d URIs, not one", ErrIdentity, len(cert.URIs))
	}
	i, err := parseIdentity(cert.URIs[0])
	if err != nil {
		return Identity{}, fmt.Errorf("%w: %w", ErrIdentity, err)
	}
	if i.Issued.IsZero() { // an authority of somebody's own
		i.Issued = cert.NotBefore
	}
	return i, nil
}

// plain undoes what the encoding of queries does to the characters of patterns:
// who makes certificates by hand writes them as they are. Neither can be in a role or
// a name, and each reads the same in both spellings.
var plain = strings.NewReplacer("%2A", "*", "%2C", ",")

func parseIdentity(u *url.URL) (Identity, error) {
	if u.Scheme != scheme || !strings.HasPrefix(u.Path, "/") {
		return Identity{}, fmt.Errorf("%.300q is not of the form %s://ROLE/NAME", u, scheme)
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return Identity{}, fmt.Errorf("%.300q: %w", u, err)
	}
	i := Identity{Role: Role(u.Host), Name: desired.Name(u.Path[1:])}
	if q.Has("issued") {
		issued, err := strconv.ParseInt(q.Get("issued"), 10, 64)
		if err != nil {
			return Identity{}, fmt.Errorf("%.300q does not say when it was issued", u)
		}
		i.Issued = time.UnixMilli(issued).UTC()
	}
	if sets := q.Get("sets"); sets != "" {
		i.Sets = strings.Split(sets, ",")
	}
	if err := i.Check(); err != nil {
		return Identity{}, err
	}
	if plain.Replace(u.String()) != plain.Replace(i.url().String()) { // user, port, fragment, or anything else that might be read in two ways
		return Identity{}, fmt.Errorf("%.300q has more than a role, a name, sets and a time", u)
	}
	return i, nil
}
