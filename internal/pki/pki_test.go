package pki_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"espalier/internal/desired"
	"espalier/internal/pki"
)

func authority(t testing.TB) *pki.Authority {
	t.Helper()
	a, err := pki.MakeAuthority(filepath.Join(t.TempDir(), "pki"))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func credentials(t testing.TB, a *pki.Authority, id pki.Identity) *pki.Credentials {
	t.Helper()
	c, err := a.Make(id)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestAuthorityLasts: it is made once, readable by its owner alone, and refused
// where it is not whole.
func TestAuthorityLasts(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	if _, err := pki.OpenAuthority(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("OpenAuthority where there is none = %v, want %v", err, fs.ErrNotExist)
	}
	a, err := pki.MakeAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	b, err := pki.OpenAuthority(dir)
	if err != nil || a.Fingerprint() != b.Fingerprint() {
		t.Fatalf("opened again: %v, %v, want %v", b.Fingerprint(), err, a.Fingerprint())
	}
	if _, err := pki.MakeAuthority(dir); !errors.Is(err, fs.ErrExist) {
		t.Errorf("MakeAuthority where there is one = %v, want %v", err, fs.ErrExist)
	}
	path := filepath.Join(dir, "ca.pem")
	for name, mode := range map[string]os.FileMode{dir: 0o700, path: 0o600} {
		info, err := os.Stat(name)
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("mode of %s = %v, %v, want %v", name, info.Mode().Perm(), err, mode)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	other, err := os.ReadFile(filepath.Join(makeDir(t), "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.OpenAuthority(dir); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("an authority that others can read: %v", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.OpenAuthority(dir); err == nil || !strings.Contains(err.Error(), "chmod 700") {
		t.Errorf("an authority in a folder that others can read: %v", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	end := bytes.Index(text, []byte("-----BEGIN CERTIFICATE"))
	otherEnd := bytes.Index(other, []byte("-----BEGIN CERTIFICATE"))
	for name, bad := range map[string][]byte{
		"empty": nil, "key alone": text[:end], "certificate alone": text[end:],
		"another's key": append(bytes.Clone(other[:otherEnd]), text[end:]...),
		"huge":          bytes.Repeat([]byte("x"), pki.MaxPEMBytes+1),
	} {
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := pki.OpenAuthority(dir); err == nil {
			t.Errorf("%s: OpenAuthority succeeded", name)
		}
	}
}

func makeDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "pki")
	if _, err := pki.MakeAuthority(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestIdentity(t *testing.T) {
	a := authority(t)
	for _, id := range []pki.Identity{
		{Role: pki.RoleHost, Name: "web-01"},
		{Role: pki.RoleServer, Name: "server"},
		{Role: pki.RoleWriter, Name: "alice", Sets: []string{"web-*", "db"}},
		{Role: pki.RoleReader, Name: "bob"},
	} {
		got := credentials(t, a, id).Identity()
		if got.Issued.IsZero() {
			t.Errorf("%v: it does not say when it was issued", id)
		}
		if got.Role != id.Role || got.Name != id.Name || strings.Join(got.Sets, " ") != strings.Join(id.Sets, " ") {
			t.Errorf("identity = %+v, want %+v", got, id)
		}
	}
	for _, id := range []pki.Identity{
		{},
		{Role: "root", Name: "a"},
		{Role: pki.RoleHost},
		{Role: pki.RoleHost, Name: "a/b"},
		{Role: pki.RoleHost, Name: "A"},
		{Role: pki.RoleHost, Name: "a", Sets: []string{"a"}},
		{Role: pki.RoleWriter, Name: "a", Sets: []string{""}},
		{Role: pki.RoleWriter, Name: "a", Sets: []string{"a,b"}},
		{Role: pki.RoleWriter, Name: "a", Sets: []string{"[a]"}},
		{Role: pki.RoleWriter, Name: "a", Sets: make([]string, pki.MaxPatterns+1)},
	} {
		if c, err := a.Make(id); !errors.Is(err, desired.ErrInvalid) {
			t.Errorf("Make(%+v) = %v, %v, want %v", id, c, err, desired.ErrInvalid)
		}
	}
}

func TestMayUse(t *testing.T) {
	id := pki.Identity{Role: pki.RoleWriter, Name: "alice", Sets: []string{"web-*", "db"}}
	for set, want := range map[desired.Name]bool{"web-01": true, "web-": true, "web": false, "db": true, "db2": false, "a-web-1": false} {
		if got := id.MayUse(set); got != want {
			t.Errorf("MayUse(%q) = %v, want %v", set, got, want)
		}
	}
	if id.Sets = nil; !id.MayUse("anything") {
		t.Error("who is not limited may not use a set")
	}
}

// TestIdentityOf reads identities that no authority of ours would write.
func TestIdentityOf(t *testing.T) {
	uri := func(texts ...string) *x509.Certificate {
		c := &x509.Certificate{}
		for _, text := range texts {
			u, err := url.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			c.URIs = append(c.URIs, u)
		}
		return c
	}
	for ok, sets := range map[string]string{
		"espalier://host/web-01": "", "espalier://host/a?issued=1": "",
		"espalier://writer/a?sets=web-%2A%2Cdb": "web-* db", "espalier://writer/a?sets=web-*,db": "web-* db", "espalier://writer/a?issued=1&sets=web-*%2Cdb": "web-* db",
	} {
		if id, err := pki.IdentityOf(uri(ok)); err != nil || strings.Join(id.Sets, " ") != sets {
			t.Errorf("IdentityOf(%s) = %v of sets %q, %v, want %q", ok, id, id.Sets, err, sets)
		}
	}
	for _, bad := range [][]string{
		nil,
		{"espalier://host/a", "espalier://admin/a"},
		{"spiffe://host/a"},
		{"espalier://host/a?issued=x"},
		{"espalier://host/a?issued=1&issued=2"},
		{"espalier://host/a?role=admin"},
		{"espalier://reader/a?sets=web-%2a"},
		{"espalier://reader/a?sets=w%65b"},
		{"espalier://reader/a?sets=*&issued=1"},
		{"espalier://reader/a?sets=a&sets=*"},
		{"espalier://reader/a?sets=a;b"},
		{"espalier://reader/a?sets=a+b"},
		{"espalier://reader/*?sets=a"},
		{"espalier://reader/%2A?sets=a"},
		{"espalier://reader/a%2A"},
		{"espalier://host/a#admin"},
		{"espalier://admin@host/a"},
		{"espalier://host:1/a"},
		{"espalier://HOST/a"},
		{"espalier://host/a/b"},
		{"espalier://host/%61"},
		{"espalier://host//a"},
		{"espalier://host/../a"},
		{"espalier:host/a"},
		{"espalier://host/"},
		{"espalier://host"},
	} {
		if id, err := pki.IdentityOf(uri(bad...)); !errors.Is(err, pki.ErrIdentity) {
			t.Errorf("IdentityOf(%s) = %v, %v, want %v", bad, id, err, pki.ErrIdentity)
		}
	}
}

// TestSignIgnoresWhatIsAskedFor: the authority says who somebody is.
func TestSignIgnoresWhatIsAskedFor(t *testing.T) {
	a := authority(t)
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	admin, _ := url.Parse("espalier://admin/root")
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		URIs: []*url.URL{admin}, DNSNames: []string{"server"},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := pki.ParseRequest(request)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := a.Sign(parsed, pki.Identity{Role: pki.RoleHost, Name: "web-01"})
	if err != nil {
		t.Fatal(err)
	}
	id, err := pki.IdentityOf(cert)
	if err != nil || id.Role != pki.RoleHost || id.Name != "web-01" || len(cert.DNSNames) > 0 || cert.IsCA {
		t.Errorf("it signed %v, %v, names %q", id, err, cert.DNSNames)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{
		"RSA": must(pki.Request(rsaKey)), "P-384": must(pki.Request(p384)), "nothing": nil,
		"a bad signature": append(bytes.Clone(request[:len(request)-1]), request[len(request)-1]^1),
		"too much":        make([]byte, pki.MaxRequestBytes+1),
	} {
		if _, err := pki.ParseRequest(bad); !errors.Is(err, desired.ErrInvalid) {
			t.Errorf("%s: ParseRequest = %v, want %v", name, err, desired.ErrInvalid)
		}
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

func TestToken(t *testing.T) {
	a := authority(t)
	token := a.NewToken()
	got, err := pki.ParseToken(token.Text() + "\n")
	if err != nil || got != token || got.Hash() != pki.HashSecret(token.Secret[:]) || token.Authority != a.Fingerprint() {
		t.Errorf("ParseToken = %v, %v", got, err)
	}
	if a.NewToken().Secret == token.Secret {
		t.Error("two tokens have one secret")
	}
	for _, bad := range []string{"", "x", token.Text()[1:], token.Text()[:len(token.Text())-1], token.Text() + "A"} {
		if _, err := pki.ParseToken(bad); !errors.Is(err, desired.ErrInvalid) || bad != "" && strings.Contains(err.Error(), bad) && len(bad) > 1 {
			t.Errorf("ParseToken(%q) = %v", bad, err)
		}
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("", "token", token)
	fmt.Fprintf(&log, "%v %+v %#v %s %x", token, token, token, token, token)
	if secret := token.Text()[20:30]; strings.Contains(log.String(), secret) || strings.Contains(log.String(), fmt.Sprintf("%x", token.Secret[:4])) {
		t.Errorf("a log has the token: %s", log.String())
	}
}

func TestCredentialsFile(t *testing.T) {
	c := credentials(t, authority(t), pki.Identity{Role: pki.RoleHost, Name: "web-01"})
	path := filepath.Join(t.TempDir(), "identity.pem")
	if err := c.Write(path); err != nil {
		t.Fatal(err)
	}
	got, err := pki.ReadCredentials(path)
	if err != nil || got.Identity().String() != "host/web-01" || !got.Expires().Equal(c.Expires()) {
		t.Fatalf("ReadCredentials = %v, %v", got, err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.ReadCredentials(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a file that others can read: %v", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	for cut := range 20 {
		if err := os.WriteFile(path, text[:len(text)*cut/20], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := pki.ReadCredentials(path); err == nil {
			t.Errorf("%d of 20 parts of a file are enough", cut)
		}
	}
}

// shake runs a handshake and returns what each side makes of it.
func shake(t *testing.T, server, client *tls.Config) (atServer, atClient error) {
	t.Helper()
	s, c := net.Pipe()
	defer s.Close()
	defer c.Close()
	done := make(chan error, 1)
	go func() {
		conn := tls.Server(s, server)
		err := conn.Handshake()
		if err == nil {
			_, err = conn.Write([]byte("x"))
		}
		s.Close()
		done <- err
	}()
	conn := tls.Client(c, client)
	_, err := io.ReadFull(conn, make([]byte, 1)) // in TLS 1.3 the client learns of a refusal only now
	c.Close()
	return <-done, err
}

// TestHandshake: each kind of server with each kind of client.
func TestHandshake(t *testing.T) {
	ours, theirs := authority(t), authority(t)
	make := func(a *pki.Authority, role pki.Role) *pki.Holder {
		return pki.NewHolder(credentials(t, a, pki.Identity{Role: role, Name: "x"}))
	}
	servers := map[string]*pki.Holder{
		"server": make(ours, pki.RoleServer), "foreign": make(theirs, pki.RoleServer),
		"host": make(ours, pki.RoleHost), "admin": make(ours, pki.RoleAdmin),
	}
	clients := map[string]*tls.Config{
		"host": make(ours, pki.RoleHost).ClientConfig(), "foreign": make(theirs, pki.RoleHost).ClientConfig(),
		"join": pki.JoinConfig(ours.Fingerprint()), "foreign join": pki.JoinConfig(theirs.Fingerprint()),
	}
	allowed := map[string]bool{"server host": true, "server join": true, "foreign foreign": true, "foreign foreign join": true}
	for s, server := range servers {
		for c, client := range clients {
			atServer, atClient := shake(t, server.ServerConfig(), client)
			if ok := atServer == nil && atClient == nil; ok != allowed[s+" "+c] {
				t.Errorf("server %q, client %q: %v, %v, want success %v", s, c, atServer, atClient, allowed[s+" "+c])
			}
		}
	}
	old := clients["host"].Clone()
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if atServer, _ := shake(t, servers["server"].ServerConfig(), old); atServer == nil {
		t.Error("TLS 1.2 is accepted")
	}
}

// TestIntermediate: what somebody signs whom the authority has signed is worth
// nothing.
func TestIntermediate(t *testing.T) {
	ours := authority(t)
	server := pki.NewHolder(credentials(t, ours, pki.Identity{Role: pki.RoleServer, Name: "x"}))
	host := credentials(t, ours, pki.Identity{Role: pki.RoleHost, Name: "x"})
	config := server.ServerConfig()
	leaf := &x509.Certificate{}
	for n, ok := range map[int]bool{2: true, 3: false, 1: false} {
		state := tls.ConnectionState{
			PeerCertificates: []*x509.Certificate{leaf}, VerifiedChains: [][]*x509.Certificate{make([]*x509.Certificate, n)},
		}
		if err := config.VerifyConnection(state); (err == nil) != ok {
			t.Errorf("a chain of %d certificates: %v", n, err)
		}
	}
	if atServer, atClient := shake(t, config, pki.NewHolder(host).ClientConfig()); atServer != nil || atClient != nil {
		t.Errorf("a host that the authority has signed itself: %v, %v", atServer, atClient)
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add(pki.Token{}.Text())
	f.Fuzz(func(t *testing.T, text string) {
		token, err := pki.ParseToken(text)
		if err == nil && token.Text() != strings.TrimSpace(text) {
			t.Errorf("%q is read as another token's text", text)
		}
	})
}

func FuzzSign(f *testing.F) {
	a := authority(f)
	key, err := pki.NewKey()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(must(pki.Request(key)))
	f.Fuzz(func(t *testing.T, request []byte) {
		parsed, err := pki.ParseRequest(request)
		if err != nil {
			return
		}
		cert, err := a.Sign(parsed, pki.Identity{Role: pki.RoleHost, Name: "a"})
		if err != nil {
			t.Fatal(err)
		}
		if id, err := pki.IdentityOf(cert); err != nil || id.String() != "host/a" || cert.IsCA {
			t.Errorf("it signed %v, %v", id, err)
		}
	})
}

func FuzzIdentityOf(f *testing.F) {
	f.Add("espalier://writer/alice?issued=12&sets=web-%2A")
	f.Fuzz(func(t *testing.T, text string) {
		u, err := url.Parse(text)
		if err != nil {
			return
		}
		id, err := pki.IdentityOf(&x509.Certificate{URIs: []*url.URL{u}})
		if err == nil {
			err = id.Check()
		} else if errors.Is(err, pki.ErrIdentity) {
			err = nil
		}
		if err != nil {
			t.Errorf("IdentityOf(%q) = %v, %v", text, id, err)
		}
	})
}
