package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// authority is one that somebody else has made, as with openssl.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	a.key, a.cert = a.make(&x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, time.Hour)
	return a
}

// make returns a new key and its certificate, for a time from now.
func (a *authority) make(c *x509.Certificate, life time.Duration) (*ecdsa.PrivateKey, *x509.Certificate) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(1), time.Now().Add(-2*time.Hour), time.Now().Add(life)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		a.t.Fatal(err)
	}
	return key, c
}

// leaf returns the PEM of a new key and of a certificate that says uri, for those
// usages; none: for both sides.
func (a *authority) leaf(uri string, life time.Duration, usages ...x509.ExtKeyUsage) (key, cert string) {
	a.t.Helper()
	if len(usages) == 0 {
		usages = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	u, err := url.Parse(uri)
	if err != nil {
		a.t.Fatal(err)
	}
	k, c := a.make(&x509.Certificate{
		URIs: []*url.URL{u}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: usages,
	}, life)
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		a.t.Fatal(err)
	}
	return block("PRIVATE KEY", der), block("CERTIFICATE", c.Raw)
}

func block(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// put writes a file for its owner alone, and the folders above it.
func put(t *testing.T, path string, texts ...string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	overwrite(t, path, 0, []byte(strings.Join(texts, "")))
	return path
}

// TestOwnCertificates runs everything on certificates that espalier has not
// made.
func TestOwnCertificates(t *testing.T) {
	dir := t.TempDir()
	a := newAuthority(t)
	ca := block("CERTIFICATE", a.cert.Raw)
	flags := func(uri string) []string {
		key, cert := a.leaf(uri, time.Hour)
		name := url.PathEscape(uri)
		return []string{
			"--tls-cert", put(t, filepath.Join(dir, name+".crt"), cert),
			"--tls-key", put(t, filepath.Join(dir, name+".key"), key), "--client-ca", put(t, filepath.Join(dir, "ca.crt"), ca),
		}
	}
	data := filepath.Join(dir, "server")
	server := serveWith(t, data, flags("espalier://server/server")...)
	if _, err := os.Stat(filepath.Join(data, "pki")); err == nil {
		t.Error("the server makes an authority all the same")
	}
	identity := func(name, uri string, life time.Duration) string {
		key, cert := a.leaf(uri, life)
		return put(t, filepath.Join(dir, name), key, cert, ca)
	}
	admin := identity("admin.pem", "espalier://admin/jo", time.Hour)
	reader := identity("reader.pem", "espalier://reader/al?sets=web-*,db", time.Hour)
	must(t, nil, "", server.as(admin, "set", "web-01", "k", "v")...)
	must(t, nil, "", server.as(reader, "get", "web-01", "k")...)
	refused(t, 3, "reader/al may not", server.as(reader, "set", "web-01", "k", "w")...)
	identity("agent/identity.pem", "espalier://host/web-01", time.Hour)
	var s synced
	if must(t, &s, "", server.host("agent", "--once", "--data", filepath.Join(dir, "agent"))...); s.Host != "web-01" || s.Sets[0].Objects != 1 {
		t.Errorf("agent: %+v", s)
	}
	refused(t, 1, "signs no certificates: the authority that --client-ca names does\n", server.as(admin, "token", "create", "--host", "web-02")...)
	refused(t, 3, "--identity names others, which your authority signs", server.as(reader, "sets", "delete", "web-01", "--yes")...)
	var d struct {
		NeverIssued bool `json:"never_issued"`
	}
	if must(t, &d, "", server.as(admin, "host", "revoke", "web-01")...); d.NeverIssued {
		t.Error("the server claims to know what another authority has issued")
	}
	refused(t, 3, "revoked\na certificate that was issued later, by your authority,", server.host("agent", "--once", "--data", filepath.Join(dir, "agent"))...)

	// What is signed is not yet who it should be.
	key, cert := newAuthority(t).leaf("espalier://admin/jo", time.Hour)
	refused(t, 2, "not signed by the authority", server.as(put(t, filepath.Join(dir, "mixed.pem"), key, cert, ca), "sets")...)
	for uri, says := range map[string]string{
		"espalier://host/web-01":         "that of host/web-01, not of a server",
		"https://server/server":          "not of the form espalier://ROLE/NAME",
		"espalier://server/server#twice": "more than a role",
	} {
		refused(t, 1, says, append([]string{"serve", "--listen", "127.0.0.1:0", "--data", filepath.Join(dir, "other")}, flags(uri)...)...)
	}
	open := flags("espalier://server/open")
	if err := os.Chmod(open[3], 0o644); err != nil {
		t.Fatal(err)
	}
	refused(t, 1, "run chmod o=", append([]string{"serve", "--listen", "127.0.0.1:0", "--data", filepath.Join(dir, "other")}, open...)...)
	// An agent whose certificate says that it is a server is none.
	identity("posing/identity.pem", "espalier://server/server", time.Hour)
	refused(t, 3, "server/server", server.host("agent", "--once", "--data", filepath.Join(dir, "posing"))...)

	// Files that are no good.
	expired := identity("expired.pem", "espalier://admin/jo", -time.Hour)
	for _, command := range []string{"sets", "get s k", "apply s -f nothing", "backup s nothing", "token create --host h", "audit"} {
		refused(t, 2, "have your authority sign a new one", server.as(expired, strings.Fields(command)...)...)
		refused(t, 2, "'espalier login'", server.as(filepath.Join(dir, "missing.pem"), strings.Fields(command)...)...)
	}
	identity("late/identity.pem", "espalier://host/web-01", -time.Hour)
	refused(t, 3, "have your authority sign a new one", server.host("agent", "--once", "--data", filepath.Join(dir, "late"))...)
	key, cert = a.leaf("espalier://reader/al", time.Hour, x509.ExtKeyUsageServerAuth)
	refused(t, 2, "one of role reader, and lacks the extended key usage clientAuth", server.as(put(t, filepath.Join(dir, "side.pem"), key, cert, ca), "sets")...)
	whole := read(t, admin)
	for name, text := range map[string]string{
		"empty": "", "half a key": whole[:100], "only a key": key, "half": whole[:len(whole)/2], "no authority": key + cert, "garbage": "garbage",
	} {
		t.Run(name, func(t *testing.T) {
			refused(t, 2, "'espalier login' with a new token writes it anew", server.as(put(t, filepath.Join(dir, "bad.pem"), text), "sets")...)
			put(t, filepath.Join(dir, "bad", "identity.pem"), text)
			refused(t, 3, "this host has not joined", server.host("agent", "--once", "--data", filepath.Join(dir, "bad"))...)
		})
	}
	if err := os.Chmod(admin, 0o644); err != nil {
		t.Fatal(err)
	}
	refused(t, 2, "run chmod 600", server.as(admin, "sets")...)
}

// TestPlainAndTLS: without TLS nobody talks beyond loopback, and who has it and
// who doesn't tell each other so.
func TestPlainAndTLS(t *testing.T) {
	dir := t.TempDir()
	server, admin := secured(t, filepath.Join(dir, "server"))
	plain := serve(t, filepath.Join(dir, "plain"))
	must(t, nil, "", server.as(admin, "set", "web-01", "k", "v")...)
	data := filepath.Join(dir, "agent")
	must(t, nil, "", server.host("agent", "--once", "--data", data, "--join", token(t, server, admin, "--host", "web-01"))...)

	for _, beyond := range []string{"0.0.0.0:7600", "[::]:7600", "10.0.0.1:7600", "example.com:7600", ":7600"} {
		refused(t, 2, "not a loopback address", "serve", "--insecure", "--listen", beyond, "--data", filepath.Join(dir, "x"))
		refused(t, 2, "not a loopback address", "sets", "--insecure", "--server", beyond)
		refused(t, 2, "not a loopback address", "agent", "--once", "--insecure", "--host", "h", "--server", beyond, "--data", filepath.Join(dir, "x"))
	}
	refused(t, 2, "--insecure goes without", "serve", "--insecure", "--tls-cert", "x", "--data", filepath.Join(dir, "x"))
	for _, command := range [][]string{{"sets"}, {"set", "web-01", "k", "w"}, {"agent", "--once", "--host", "web-01", "--data", filepath.Join(dir, "x")}} {
		refused(t, 4, "leave --insecure out", server.at(command...)...)
	}
	refused(t, 4, "--insecure", plain.as(admin, "sets")...)
	refused(t, 4, "does not speak TLS", plain.as(admin, "sets")...)
	refused(t, 4, "does not speak TLS", plain.host("agent", "--once", "--data", data)...)
	refused(t, 4, "does not speak TLS", plain.as(filepath.Join(dir, "login.pem"), "login", token(t, server, admin, "--host", "h"))...)
	for command, says := range map[string]string{
		"token create --host h": "it runs with --insecure, has no tokens, and signs no certificates\n", "host revoke h": "it runs with --insecure, and knows nobody to revoke\n",
	} {
		refused(t, 1, says, plain.at(strings.Fields(command)...)...)
	}
	must(t, nil, "", plain.at("audit")...)
	refused(t, 2, "--insecure", plain.at("login", token(t, server, admin, "--host", "h"))...)
	refused(t, 2, "--join goes without --insecure", plain.at("agent", "--once", "--join", "x", "--data", filepath.Join(dir, "x"))...)
}

// TestTokenMisuse is what a token can't be asked for.
func TestTokenMisuse(t *testing.T) {
	server, admin := secured(t, filepath.Join(t.TempDir(), "server"))
	for args, says := range map[string]string{
		"":                                      "want one of --host and --operator",
		"--host h --operator o":                 "want one of --host and --operator",
		"--host h --role admin":                 "--role and --sets go with --operator",
		"--host h --sets web-*":                 "--role and --sets go with --operator",
		"--operator o":                          "--operator wants --role",
		"--operator o --role server":            "--operator wants --role",
		"--operator o --role host":              "--operator wants --role",
		"--operator o --role admin --sets x":    "--sets goes with --role writer or reader",
		"--operator o --role reader --sets a[b": "pattern",
		"--host Bad_Name":                       "lower case",
		"--host h --ttl 10ms":                   "a second or more",
		"--host h --ttl 721h":                   "30 days or less",
		"h":                                     "takes no arguments",
	} {
		refused(t, 2, says, server.as(admin, append([]string{"token", "create"}, strings.Fields(args)...)...)...)
	}
	refused(t, 2, `unknown command "frob"`, "token", "frob")
}
