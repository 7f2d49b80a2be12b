package pki

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"espalier/internal/desired"
)

// Token lets its bearer have a certificate signed, once. It is a secret, along
// with the fingerprint of the authority that will sign: a host that has nothing
// else yet can tell the server from an impostor.
type Token struct {
	Secret    [16]byte
	Authority Fingerprint
}

// tokenPrefix makes tokens easy to find where they should not be.
const tokenPrefix = "espalier-token-1-"

// Want is who somebody would be whom a token lets in.
type Want struct {
	Roles []Role       // one of them; none: any
	Name  desired.Name // empty: any
}

// Allows reports whether id is somebody like that.
func (w Want) Allows(id Identity) bool {
	return (len(w.Roles) == 0 || slices.Contains(w.Roles, id.Role)) && (w.Name == "" || w.Name == id.Name)
}

// NewToken returns a new token of the authority.
func (a *Authority) NewToken() Token {
	t := Token{Authority: a.Fingerprint()}
	rand.Read(t.Secret[:])
	return t
}

// Text returns the token as its bearer is given it. There is no String method,
// so that no log can have it by accident.
func (t Token) Text() string {
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(append(t.Secret[:], t.Authority[:]...))
}

// ParseToken reads what Text returns, or returns an error that matches
// desired.ErrInvalid and does not repeat it.
func ParseToken(text string) (Token, error) {
	var t Token
	rest, ok := strings.CutPrefix(strings.TrimSpace(text), tokenPrefix)
	b, err := base64.RawURLEncoding.Strict().DecodeString(rest)
	if !ok || err != nil || len(b) != len(t.Secret)+len(t.Authority) {
		return Token{}, fmt.Errorf("%w token: it is not one that 'espalier token create' printed, or not whole", desired.ErrInvalid)
	}
	copy(t.Authority[:], b[copy(t.Secret[:], b):])
	return t, nil
}

// Hash returns what the server keeps of a token's secret: enough to know it
// again. The secret has 128 random bits, so that nothing slower is needed.
func (t Token) Hash() [sha256.Size]byte { return HashSecret(t.Secret[:]) }

// HashSecret is Hash of a secret that came over the wire.
func HashSecret(secret []byte) [sha256.Size]byte {
	return sha256.Sum256(append([]byte("espalier token\x00"), secret...))
}

// GoString and Format keep a token out of what prints values.
func (Token) GoString() string { return "pki.Token{…}" }

// Format implements fmt.Formatter.
func (Token) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte("token …")) }
