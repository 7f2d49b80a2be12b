package server_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"espalier/internal/audit"
	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/internal/pki"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/server"
	"espalier/store"
)

// secured is a server with TLS and an authority of its own, which can be
// stopped and started again.
type secured struct {
	t         testing.TB
	dir       string
	authority *pki.Authority
	log       *lines
	listen    func() (net.Listener, func(context.Context) (net.Conn, error))

	dialer func(context.Context) (net.Conn, error)
	server *server.Server
	store  *store.Store
	stop   func()
}

// secure starts one on a port of the loopback interface.
func secure(t testing.TB) *secured {
	return secureOn(t, func() (net.Listener, func(context.Context) (net.Conn, error)) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l, func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", l.Addr().String())
		}
	})
}

// from returns what dials from the i-th address of the loopback interface.
func (w *secured) from(i int) func(context.Context) (net.Conn, error) {
	w.t.Helper()
	probe, err := w.dialer(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	server := probe.RemoteAddr().String()
	probe.Close()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(1+i))}}
	return func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "tcp", server) }
}

func secureOn(t testing.TB, listen func() (net.Listener, func(context.Context) (net.Conn, error))) *secured {
	t.Helper()
	w := &secured{t: t, dir: t.TempDir(), log: &lines{}, listen: listen}
	var err error
	if w.authority, err = pki.MakeAuthority(filepath.Join(w.dir, "pki")); err != nil {
		t.Fatal(err)
	}
	w.start()
	t.Cleanup(func() { w.stop() })
	return w
}

// open returns a server that does not run yet, and what closes what it uses.
func (w *secured) open() (*server.Server, func()) {
	w.t.Helper()
	own, err := w.authority.Make(pki.Identity{Role: pki.RoleServer, Name: "server"})
	if err != nil {
		w.t.Fatal(err)
	}
	log, err := audit.Open(filepath.Join(w.dir, "audit.jsonl"))
	if err != nil {
		w.t.Fatal(err)
	}
	logger := slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if w.store, err = store.Open(filepath.Join(w.dir, "data"), store.Options{Logger: logger}); err != nil {
		w.t.Fatal(err)
	}
	s := server.New(w.store, server.Options{
		Logger: logger, ScratchDir: w.t.TempDir(), ScrubBytes: -1, Audit: log,
		Trust: &server.Trust{Credentials: pki.NewHolder(own), Authority: w.authority},
	})
	return s, func() {
		if err := errors.Join(w.store.Close(), log.Close()); err != nil {
			w.t.Error(err)
		}
	}
}

func (w *secured) start() {
	w.t.Helper()
	var l net.Listener
	l, w.dialer = w.listen()
	s, closing := w.open()
	w.server = s
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- s.Run(ctx, l) }()
	w.stop = func() {
		cancel()
		if err := <-stopped; err != nil {
			w.t.Error(err)
		}
		closing()
		w.stop = func() {}
	}
}

func (w *secured) restart() {
	w.t.Helper()
	w.stop()
	w.start()
}

// as returns the TLS configuration of somebody with a new certificate.
func (w *secured) as(id pki.Identity) *tls.Config {
	w.t.Helper()
	c, err := w.authority.Make(id)
	if err != nil {
		w.t.Fatal(err)
	}
	return pki.NewHolder(c).ClientConfig()
}

// nobody returns that of somebody without a certificate.
func (w *secured) nobody() *tls.Config { return pki.JoinConfig(w.authority.Fingerprint()) }

// forged returns that of who shows a certificate that no authority of ours
// would sign: one that change has had its way with.
func (w *secured) forged(id pki.Identity, change func(*x509.Certificate)) *tls.Config {
	w.t.Helper()
	text, err := os.ReadFile(filepath.Join(w.dir, "pki", "ca.pem"))
	if err != nil {
		w.t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	signer, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		w.t.Fatal(err)
	}
	key, err := pki.NewKey()
	if err != nil {
		w.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		URIs: []*url.URL{{Scheme: "espalier", Host: string(id.Role), Path: "/" + string(id.Name)}},
	}
	change(template)
	der, err := x509.CreateCertificate(rand.Reader, template, w.authority.Certificate(), key.Public(), signer.(crypto.Signer))
	if err != nil {
		w.t.Fatal(err)
	}
	return showing(w.nobody(), &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key})
}

// showing returns the configuration of who shows that certificate.
func showing(config *tls.Config, cert *tls.Certificate) *tls.Config {
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	return config
}

// dial returns a connection of who has that configuration.
func (w *secured) dial(config *tls.Config) *grpc.ClientConn {
	w.t.Helper()
	dialer := w.dialer
	conn, err := grpc.NewClient("passthrough:///server",
		grpc.WithTransportCredentials(credentials.NewTLS(config)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dialer(ctx) }),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(2*delta.MaxMessageBytes), grpc.MaxCallSendMsgSize(4*delta.MaxMessageBytes)))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	return conn
}

var (
	root = pki.Identity{Role: pki.RoleAdmin, Name: "root"}
	web1 = pki.Identity{Role: pki.RoleHost, Name: "web-1"}
)

// admin returns a client of trust for an admin.
func (w *secured) admin() espalierv1.TrustServiceClient {
	w.t.Helper()
	return espalierv1.NewTrustServiceClient(w.dial(w.as(root)))
}

// make commits an object to each of the sets.
func (w *secured) make(t *testing.T, sets ...desired.Name) {
	t.Helper()
	conn := w.dial(w.as(root))
	defer conn.Close()
	for _, set := range sets {
		if _, err := commit(t, conn, &espalierv1.CommitTerms{Set: string(set)}, frame(t, put("a", "1"))); err != nil {
			t.Fatal(err)
		}
	}
}
