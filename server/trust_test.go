package server_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"espalier/internal/audit"
	"espalier/internal/desired"
	"espalier/internal/pki"
	"espalier/internal/wire"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/server"
	"espalier/store"
)

// token returns the secret of a new token.
func (w *secured) token(id pki.Identity, life time.Duration) []byte {
	w.t.Helper()
	resp, err := w.admin().CreateToken(context.Background(), &espalierv1.CreateTokenRequest{
		Role: string(id.Role), Name: string(id.Name), Sets: id.Sets, TtlSeconds: uint32(life / time.Second),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return resp.GetSecret()
}

// csr returns a request that asks for more than it should get, and its key.
func csr(t testing.TB) ([]byte, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		URIs: []*url.URL{{Scheme: "espalier", Host: "admin", Path: "/root"}}, DNSNames: []string{"admin"},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	return der, key
}

// enroll exchanges a secret for a certificate.
func (w *secured) enroll(secret []byte) (pki.Identity, *tls.Config, error) {
	w.t.Helper()
	conn := w.dial(w.nobody())
	defer conn.Close()
	request, key := csr(w.t)
	resp, err := espalierv1.NewTrustServiceClient(conn).Enroll(context.Background(), &espalierv1.EnrollRequest{Secret: secret, Request: request})
	if err != nil {
		return pki.Identity{}, nil, err
	}
	c, err := pki.Accept(key, resp.GetCertificate(), resp.GetAuthority())
	if err != nil {
		w.t.Fatal(err)
	}
	return c.Identity(), pki.NewHolder(c).ClientConfig(), nil
}

func (w *secured) revoke(id pki.Identity) uint32 {
	w.t.Helper()
	resp, err := w.admin().Revoke(context.Background(), &espalierv1.RevokeRequest{Role: string(id.Role), Name: string(id.Name)})
	if err != nil {
		w.t.Fatal(err)
	}
	return resp.GetConnections()
}

// poll asks for the host's own set.
func poll(conn grpc.ClientConnInterface) error {
	_, err := espalierv1.NewSyncServiceClient(conn).Poll(context.Background(),
		&espalierv1.PollRequest{Sets: []*espalierv1.HeldSet{{Name: string(web1.Name)}}})
	return err
}

func TestEnroll(t *testing.T) {
	w := secure(t)
	for _, want := range []pki.Identity{
		web1, {Role: pki.RoleAdmin, Name: "a"}, {Role: pki.RoleReader, Name: "r"}, {Role: pki.RoleWriter, Name: "w", Sets: []string{"web-*", "db"}},
	} {
		secret := w.token(want, time.Hour)
		w.restart()
		got, config, err := w.enroll(secret)
		if err != nil || got.String() != want.String() || strings.Join(got.Sets, " ") != strings.Join(want.Sets, " ") {
			t.Errorf("Enroll = %+v, %v, want %+v", got, err, want)
			continue
		}
		if err := poll(w.dial(config)); err != nil {
			t.Errorf("a poll by %v: %v", want, err)
		}
		if _, _, err := w.enroll(secret); !errors.Is(wire.FromStatus(err), store.ErrNoToken) {
			t.Errorf("Enroll with a token that was used = %v, want %v", err, store.ErrNoToken)
		}
	}
}

// TestEnrollOnce: of many at once who have one token, one is let in.
func TestEnrollOnce(t *testing.T) {
	w := secure(t)
	secret := w.token(web1, time.Hour)
	var in atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if _, _, err := w.enroll(secret); err == nil {
				in.Add(1)
			} else if !errors.Is(wire.FromStatus(err), store.ErrNoToken) {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if in.Load() != 1 {
		t.Errorf("a token has let %d in, want 1", in.Load())
	}
}

// TestEnrollRefuses: a malformed request leaves the token, and all tokens that
// are none look the same.
func TestEnrollRefuses(t *testing.T) {
	w := secure(t)
	secret, used := w.token(web1, time.Hour), w.token(web1, time.Hour)
	if _, _, err := w.enroll(used); err != nil {
		t.Fatal(err)
	}
	client := espalierv1.NewTrustServiceClient(w.dial(w.nobody()))
	for _, request := range [][]byte{nil, []byte("x"), make([]byte, pki.MaxRequestBytes+1)} {
		_, err := client.Enroll(t.Context(), &espalierv1.EnrollRequest{Secret: secret, Request: request})
		if !errors.Is(wire.FromStatus(err), desired.ErrInvalid) {
			t.Errorf("Enroll with a request of %d bytes = %v, want %v", len(request), err, desired.ErrInvalid)
		}
	}
	near := append(bytes.Clone(secret[:15]), secret[15]^1)
	want := ""
	for name, bad := range map[string][]byte{"none": nil, "used": used, "near": near, "part": secret[:8], "more": append(bytes.Clone(secret), 0), "long": make([]byte, 4096)} {
		_, _, err := w.enroll(bad)
		got := statusOf(t, err, "SET")
		if want == "" {
			want = got
		}
		if !errors.Is(wire.FromStatus(err), store.ErrNoToken) || got != want {
			t.Errorf("%s: Enroll = %q, want %q", name, got, want)
		}
	}
	for name, want := range map[string]*espalierv1.EnrollRequest{
		"role": {Roles: []string{"admin", "writer", "reader"}}, "name": {Roles: []string{"host"}, Name: "web-2"},
	} {
		client := espalierv1.NewTrustServiceClient(w.dial(w.nobody()))
		want.Request, _ = csr(t)
		want.Secret = secret
		if _, err := client.Enroll(t.Context(), want); !errors.Is(wire.FromStatus(err), wire.ErrOtherToken) || !strings.Contains(err.Error(), "host/web-1") {
			t.Errorf("Enroll with a token of another %s = %v, want %v", name, err, wire.ErrOtherToken)
		}
		want.Secret = near
		if _, err := client.Enroll(t.Context(), want); !errors.Is(wire.FromStatus(err), store.ErrNoToken) || strings.Contains(err.Error(), "web-1") {
			t.Errorf("Enroll with no token, for another %s = %v, want %v", name, err, store.ErrNoToken)
		}
	}
	if id, _, err := w.enroll(secret); err != nil || id.String() != web1.String() {
		t.Errorf("Enroll after all that = %v, %v", id, err)
	}
}

func TestTokenExpires(t *testing.T) {
	inBubble(t, func(t *testing.T, w *secured) {
		early, late := w.token(web1, time.Minute), w.token(web1, 0)
		time.Sleep(59 * time.Second)
		if _, _, err := w.enroll(early); err != nil {
			t.Errorf("Enroll in time = %v", err)
		}
		time.Sleep(server.DefaultTokenLife - 59*time.Second)
		if _, _, err := w.enroll(late); !errors.Is(wire.FromStatus(err), store.ErrNoToken) {
			t.Errorf("Enroll after %v = %v, want %v", server.DefaultTokenLife, err, store.ErrNoToken)
		}
		w.stop()
	})
}

func TestCreateTokenRefuses(t *testing.T) {
	w := secure(t)
	for name, req := range map[string]*espalierv1.CreateTokenRequest{
		"a server":     {Role: "server", Name: "server"},
		"no role":      {Name: "a"},
		"no name":      {Role: "host"},
		"a bad name":   {Role: "host", Name: "../a"},
		"a host's set": {Role: "host", Name: "a", Sets: []string{"b"}},
		"a pattern":    {Role: "writer", Name: "a", Sets: []string{"[a-z]"}},
		"too long":     {Role: "host", Name: "a", TtlSeconds: uint32(server.MaxTokenLife/time.Second) + 1},
		"forever":      {Role: "host", Name: "a", TtlSeconds: 1<<32 - 1},
	} {
		if _, err := w.admin().CreateToken(t.Context(), req); !errors.Is(wire.FromStatus(err), desired.ErrInvalid) {
			t.Errorf("%s: CreateToken = %v, want %v", name, err, desired.ErrInvalid)
		}
	}
}

// renew asks for another certificate.
func renew(t *testing.T, conn *grpc.ClientConn) (*pki.Credentials, error) {
	t.Helper()
	request, key := csr(t)
	resp, err := espalierv1.NewTrustServiceClient(conn).RenewCertificate(t.Context(), &espalierv1.RenewCertificateRequest{Request: request})
	if err != nil {
		return nil, err
	}
	return pki.Accept(key, resp.GetCertificate(), resp.GetAuthority())
}

// TestRenew: one gets what one had, and nothing once one is revoked.
func TestRenew(t *testing.T) {
	w := secure(t)
	config := w.as(web1)
	c, err := renew(t, w.dial(config))
	if err != nil || c.Identity().String() != web1.String() {
		t.Fatalf("renewed: %v, %v, want %v", c, err, web1)
	}
	renewed := pki.NewHolder(c).ClientConfig()
	w.revoke(web1)
	for name, config := range map[string]*tls.Config{"first": config, "renewed": renewed} {
		if _, err := renew(t, w.dial(config)); status.Code(err) != codes.Unauthenticated {
			t.Errorf("renewed with the %s certificate, whose bearer is revoked: %v", name, err)
		}
	}
	expired := w.forged(web1, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) })
	if _, err := renew(t, w.dial(expired)); status.Code(err) != codes.Unavailable {
		t.Errorf("renewed with a certificate that has expired: %v", err)
	}
}

// TestRevoke ends a connection with a call that hangs, for good: a host that is
// let in again is, and nothing else that it had.
func TestRevoke(t *testing.T) {
	w := secure(t)
	waiting := w.token(web1, time.Hour) // since before
	id, first, err := w.enroll(w.token(web1, time.Hour))
	if err != nil || id.String() != web1.String() {
		t.Fatal(id, err)
	}
	conn := w.dial(first)
	if err := poll(conn); status.Code(err) != codes.OK {
		t.Fatal(err)
	}
	ended, other := hang(t, conn), w.dial(w.as(pki.Identity{Role: pki.RoleHost, Name: "web-2"}))
	others := hang(t, other)
	if n := w.revoke(web1); n != 1 {
		t.Errorf("revoke ended %d connections, want 1", n)
	}
	if err := <-ended; status.Code(err) != codes.Unavailable {
		t.Errorf("the call that hung ended with %v", err)
	}
	shut := func(when string) {
		t.Helper()
		if err := poll(w.dial(first)); status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), "revoked") {
			t.Errorf("%s: a poll = %v", when, err)
		}
	}
	shut("at once")
	select {
	case err := <-others:
		t.Errorf("another's call ended, too: %v", err)
	default:
	}
	other.Close()
	<-others
	w.restart()
	shut("after a restart")
	if _, _, err := w.enroll(waiting); !errors.Is(wire.FromStatus(err), store.ErrNoToken) {
		t.Errorf("Enroll with a token from before = %v, want %v", err, store.ErrNoToken)
	}
	_, second, err := w.enroll(w.token(web1, time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := poll(w.dial(second)); err != nil {
			t.Errorf("a host that was let in again: %v", err)
		}
		shut("after it was let in again")
		w.restart()
	}
}

// TestRevokeAtOnce revokes a host again and again that renews its certificate
// as fast as it can: nothing that it ever gets is worth anything after.
func TestRevokeAtOnce(t *testing.T) {
	w := secure(t)
	admin := w.admin()
	for range 10 {
		conn := w.dial(w.as(web1))
		var got []*pki.Credentials
		done, begun := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			for {
				c, err := renew(t, conn)
				if err != nil {
					return
				}
				if got = append(got, c); len(got) == 1 {
					close(begun)
				}
			}
		}()
		<-begun
		if _, err := admin.Revoke(t.Context(), &espalierv1.RevokeRequest{Role: "host", Name: "web-1"}); err != nil {
			t.Fatal(err)
		}
		<-done
		if err := poll(w.dial(pki.NewHolder(got[len(got)-1]).ClientConfig())); status.Code(err) != codes.Unauthenticated {
			t.Fatalf("the last of %d certificates of a host that is revoked: %v", len(got), err)
		}
	}
}

// TestRevokeReason: what can't be recorded is refused before it is done.
func TestRevokeReason(t *testing.T) {
	w := secure(t)
	_, err := w.admin().Revoke(t.Context(), &espalierv1.RevokeRequest{Role: "host", Name: "web-1", Why: strings.Repeat("x", store.MaxWhyBytes+1)})
	if !errors.Is(wire.FromStatus(err), desired.ErrInvalid) {
		t.Errorf("Revoke for too long a reason = %v, want %v", err, desired.ErrInvalid)
	}
	if err := poll(w.dial(w.as(web1))); err != nil {
		t.Errorf("and yet it was revoked: %v", err)
	}
	_, err = w.admin().Revoke(t.Context(), &espalierv1.RevokeRequest{Role: "host", Name: "web-1", Why: strings.Repeat("\x01", store.MaxWhyBytes)})
	if err != nil {
		t.Errorf("Revoke for the longest reason = %v", err)
	}
}

// TestAudit: what changes who may do what is recorded with who did it; what was
// refused, once, however often it is tried.
func TestAudit(t *testing.T) {
	w := secure(t)
	w.make(t, "web-1")
	secret := w.token(web1, time.Hour)
	if _, _, err := w.enroll(secret); err != nil {
		t.Fatal(err)
	}
	host := w.dial(w.as(web1))
	for range 20 {
		if _, _, err := w.enroll(secret); err == nil {
			t.Error("a token works twice")
		}
		if _, err := espalierv1.NewTrustServiceClient(host).CreateToken(t.Context(), &espalierv1.CreateTokenRequest{}); err == nil {
			t.Error("a host makes tokens")
		}
		if _, err := espalierv1.NewOperatorServiceClient(host).GetHead(t.Context(), &espalierv1.GetHeadRequest{Set: "web-1"}); err == nil {
			t.Error("a host reads heads")
		}
	}
	w.revoke(web1)
	_, err := espalierv1.NewOperatorServiceClient(w.dial(w.as(root))).Compact(t.Context(), &espalierv1.CompactRequest{Set: "web-1", DropHistory: true})
	if err != nil {
		t.Fatal(err)
	}
	stream, err := w.admin().Audit(t.Context(), &espalierv1.AuditRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range resp.GetRecords() {
			var r audit.Record
			if err := json.Unmarshal(line, &r); err != nil || r.From != "127.0.0.1" || strings.Contains(r.Error, "rpc error") {
				t.Errorf("record %s: %v", line, err)
			}
			fields := []string{r.Who, r.What, r.On}
			if r.Error != "" {
				fields = append(fields, "refused")
			}
			got = append(got, strings.Join(fields, " "))
		}
	}
	want := []string{
		"admin/root commit web-1",
		"admin/root create token host/web-1",
		"nobody enroll host/web-1",
		"nobody refused /espalier.v1.TrustService/Enroll refused",
		"host/web-1 refused /espalier.v1.TrustService/CreateToken refused",
		"host/web-1 refused /espalier.v1.OperatorService/GetHead refused",
		"admin/root revoke host/web-1",
		"admin/root drop history web-1",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("the audit log says\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestDeniedLog: who is refused can't fill the log by asking for ever other
// things.
func TestDeniedLog(t *testing.T) {
	inBubble(t, func(t *testing.T, w *secured) {
		conn := w.dial(w.as(web1))
		for range 300 {
			for _, row := range []string{"sync/Poll", "sync/Pull"} {
				m := calls[row]
				set := "x" + strings.ToLower(rand.Text())
				if _, err := call(t.Context(), conn, m.method, m.message(set)); status.Code(err) != codes.OK && status.Code(err) != codes.NotFound {
					t.Fatal(err)
				}
				time.Sleep(20 * time.Millisecond)
			}
		}
		synctest.Wait()
		if found := w.log.with("WARN"); len(found) != 2 {
			t.Errorf("%d warnings, want one for each call: %q", len(found), found[:min(4, len(found))])
		}
		conn.Close()
		w.stop()
	})
}

// TestSecrets does all that secrets have a part in, and then looks for them.
func TestSecrets(t *testing.T) {
	w := secure(t)
	admin := w.dial(w.as(root))
	const value = "value-that-nobody-should-log"
	var said []string
	say := func(err error) { said = append(said, status.Convert(err).Message()) }
	change := frame(t, put("a", value))
	for _, terms := range []*espalierv1.CommitTerms{
		{Set: "web-1"},
		{Set: "web-1", Expect: &espalierv1.Position{Number: 99}},
		{Set: "web-1", MaxDelete: &espalierv1.DeleteLimit{Percent: -1}},
		{Set: "no/name"},
	} {
		_, err := commit(t, admin, terms, change)
		say(err)
	}
	_, err := commit(t, admin, &espalierv1.CommitTerms{Set: "web-1"}, change, change) // a key twice
	say(err)
	_, err = commit(t, admin, &espalierv1.CommitTerms{Set: "web-1"}, append([]byte{0xff}, value...))
	say(err)
	waiting := w.token(web1, time.Hour)
	secret := w.token(web1, time.Hour)
	stranger := espalierv1.NewTrustServiceClient(w.dial(w.nobody()))
	_, err = stranger.Enroll(t.Context(), &espalierv1.EnrollRequest{Secret: secret, Request: append([]byte("0"), secret...)})
	say(err)
	request, key := csr(t)
	if _, err = stranger.Enroll(t.Context(), &espalierv1.EnrollRequest{Secret: secret, Request: request}); err != nil {
		t.Fatal(err)
	}
	_, err = stranger.Enroll(t.Context(), &espalierv1.EnrollRequest{Secret: secret, Request: request})
	say(err)
	host := w.dial(w.as(web1))
	_, err = call(t.Context(), host, espalierv1.OperatorService_GetObject_FullMethodName, &espalierv1.GetObjectRequest{Set: "web-1", Key: []byte("a")})
	say(err)
	w.revoke(web1)
	say(poll(host))
	w.stop()

	text := strings.Join(said, "\n") + w.log.all()
	authority, err := os.ReadFile(filepath.Join(w.dir, "pki", "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	d, err := key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	var files bytes.Buffer // but those whose business they are
	err = filepath.WalkDir(w.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || filepath.Base(path) == "ca.pem" {
			return err
		}
		b, err := os.ReadFile(path)
		if filepath.Base(path) == "audit.jsonl" {
			text += string(b)
		}
		files.Write(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(text, "web-1") || !bytes.Contains(files.Bytes(), []byte("host")) {
		t.Error("the logs or the files are not those of the server")
	}
	if strings.Contains(text, value) {
		t.Error("a log or a message has a value")
	}
	for name, secret := range map[string][]byte{"token that waits": waiting, "token": secret, "key": d, "authority": authority[60:100]} {
		for form, found := range map[string]string{
			"raw": string(secret), "hexadecimal": hex.EncodeToString(secret), "base64": base64.RawStdEncoding.EncodeToString(secret[:15]),
			"base64 for URLs": base64.RawURLEncoding.EncodeToString(secret[:15]),
		} {
			if strings.Contains(strings.ToLower(text), strings.ToLower(found)) || bytes.Contains(files.Bytes(), []byte(found)) {
				t.Errorf("a log, a message or a file has the %s (%s)", name, form)
			}
		}
	}
}

// all returns the whole text.
func (l *lines) all() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// TestRevocationInTheFuture: a revocation that was made while the clock was
// ahead holds for what was issued until the next start, and no longer.
func TestRevocationInTheFuture(t *testing.T) {
	w := secure(t)
	_, first, err := w.enroll(w.token(web1, time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.store.Revoke(web1.String(), time.Now().Add(365*24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	w.restart()
	if err := poll(w.dial(first)); status.Code(err) != codes.Unauthenticated {
		t.Errorf("with what was issued before: a poll = %v", err)
	}
	_, second, err := w.enroll(w.token(web1, time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := poll(w.dial(second)); err != nil {
			t.Errorf("with what was issued since: a poll = %v", err)
		}
		w.restart()
	}
}

// TestRevokedTakeNoRoom fills what a host may have of connections with one that
// was revoked: who was let in again has room.
func TestRevokedTakeNoRoom(t *testing.T) {
	w := secure(t)
	_, first, err := w.enroll(w.token(web1, time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	w.revoke(web1)
	_, second, err := w.enroll(w.token(web1, time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	good := w.dial(second)
	if err := poll(good); err != nil {
		t.Fatal(err)
	}
	ended := hang(t, good)
	for range 2 * server.MaxHostConnections {
		_ = poll(w.dial(first))
	}
	select {
	case err := <-ended:
		t.Errorf("a connection of who was let in again ended: %v", err)
	default:
	}
	good.Close()
	<-ended
}

// TestRevokeOneself: the answer comes, and then the connection that it came over
// ends, with what else goes on there.
func TestRevokeOneself(t *testing.T) {
	inBubble(t, func(t *testing.T, w *secured) {
		config := w.as(root)
		conn, other := w.dial(config), w.dial(config)
		here, there := hang(t, conn), hang(t, other)
		synctest.Wait()
		resp, err := espalierv1.NewTrustServiceClient(conn).Revoke(t.Context(), &espalierv1.RevokeRequest{Role: "admin", Name: "root"})
		if err != nil || resp.GetConnections() != 2 {
			t.Errorf("Revoke of oneself = %v, %v, want two connections", resp, err)
		}
		if err := <-there; status.Code(err) != codes.Unavailable {
			t.Errorf("a call on another connection ended with %v", err)
		}
		if err := poll(conn); status.Code(err) != codes.Unauthenticated {
			t.Errorf("a call of who has revoked himself = %v, want %v", err, codes.Unauthenticated)
		}
		start := time.Now()
		if err := <-here; status.Code(err) != codes.Unavailable || time.Since(start) > server.PartingTime {
			t.Errorf("a call on the same connection ended with %v after %v", err, time.Since(start))
		}
		conn.Close()
		other.Close()
		w.stop()
	})
}

// TestNeverIssued: who revokes somebody is told if nobody of the name was ever
// let in, where the server can know.
func TestNeverIssued(t *testing.T) {
	inBubble(t, func(t *testing.T, w *secured) {
		revoke := func(id pki.Identity) bool {
			t.Helper()
			synctest.Wait()
			resp, err := w.admin().Revoke(t.Context(), &espalierv1.RevokeRequest{Role: string(id.Role), Name: string(id.Name)})
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			return resp.GetNeverIssued()
		}
		jo := pki.Identity{Role: pki.RoleWriter, Name: "jo"}
		w.token(web1, time.Hour)
		if _, _, err := w.enroll(w.token(jo, time.Hour)); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			for id, want := range map[*pki.Identity]bool{
				&web1: false, &jo: false, {Role: pki.RoleHost, Name: "jo"}: true, {Role: pki.RoleReader, Name: "jo"}: true, {Role: pki.RoleHost, Name: "web-2"}: true,
			} {
				if got := revoke(*id); got != want {
					t.Errorf("Revoke of %v: never issued = %v, want %v", id, got, want)
				}
			}
			w.restart() // from now on the log says it
		}
		if revoke(root) {
			t.Error("the machine's own admin never had anything")
		}
		w.stop()
		if err := os.WriteFile(filepath.Join(w.dir, "audit.jsonl"), []byte("{}\n{}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		w.start()
		if revoke(pki.Identity{Role: pki.RoleHost, Name: "web-2"}) {
			t.Error("a log that was changed knows of everybody")
		}
		if len(w.log.with("WARN", "the audit log is not what was written")) != 1 {
			t.Error("a log that was changed is not told of at the start")
		}
		w.stop()
	})
}

// TestOneSilencesNobody: a writer who is refused in ever other ways, within his
// rights, takes neither the log nor the audit log from others.
func TestOneSilencesNobody(t *testing.T) {
	inBubble(t, func(t *testing.T, w *secured) {
		writer := func(name desired.Name) *grpc.ClientConn {
			return w.dial(w.as(pki.Identity{Role: pki.RoleWriter, Name: name}))
		}
		loud, other := writer("loud"), writer("other")
		refuse := func(conn *grpc.ClientConn, terms *espalierv1.CommitTerms) {
			t.Helper()
			if _, err := commit(t, conn, terms, frame(t, put("a", "1"))); err == nil {
				t.Fatal("a commit that has to be refused was not")
			}
			time.Sleep(20 * time.Millisecond)
		}
		w.make(t, "s")
		for i := range server.MaxWarnings + 10 {
			refuse(loud, &espalierv1.CommitTerms{Set: fmt.Sprint("s", i), Why: strings.Repeat("x", store.MaxWhyBytes+1)})
		}
		for range 50 { // one loops, with what it once knew
			refuse(other, &espalierv1.CommitTerms{Set: "s", Expect: &espalierv1.Position{Number: 9}})
		}
		refuse(other, &espalierv1.CommitTerms{Set: "s", Why: strings.Repeat("x", store.MaxWhyBytes+1)})
		synctest.Wait()
		if n := len(w.log.with("WARN", "who=writer/loud")); n == 0 || n > server.MaxWarningsEach {
			t.Errorf("%d warnings about one caller, want %d at most", n, server.MaxWarningsEach)
		}
		if n := len(w.log.with("WARN", "who=writer/other")); n != 1 {
			t.Errorf("%d warnings about another, want one", n)
		}
		recorded := map[string]int{}
		err := audit.Read(filepath.Join(w.dir, "audit.jsonl"), func(_ []byte, r audit.Record) error {
			if r.Error != "" {
				recorded[r.Who]++
			}
			return nil
		})
		if err != nil || recorded["writer/other"] != 2 || recorded["writer/loud"] > server.MaxWarningsEach {
			t.Errorf("refusals recorded: %v, %v, want 2 of writer/other", recorded, err)
		}
		loud.Close()
		other.Close()
		w.stop()
	})
}
