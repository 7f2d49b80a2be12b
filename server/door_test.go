package server_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"espalier/internal/pki"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/server"
)

// inBubble starts a server in a bubble of virtual time.
func inBubble(t *testing.T, fn func(t *testing.T, w *secured)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := secureOn(t, func() (net.Listener, func(context.Context) (net.Conn, error)) {
			l := bufconn.Listen(256 << 10)
			return l, l.DialContext
		})
		fn(t, w)
	})
}

// hang returns what says how a Pull ends that asks for nothing.
func hang(t *testing.T, conn *grpc.ClientConn) <-chan error {
	t.Helper()
	ended := make(chan error, 1)
	stream, err := espalierv1.NewSyncServiceClient(conn).Pull(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, err := stream.Recv()
		ended <- err
	}()
	return ended
}

// TestCertificateExpires ends a call that hangs, when the certificate does.
func TestCertificateExpires(t *testing.T) {
	inBubble(t, func(t *testing.T, w *secured) {
		conn := w.dial(w.forged(web1, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(time.Hour) }))
		ended := hang(t, conn)
		time.Sleep(59 * time.Minute)
		synctest.Wait()
		select {
		case err := <-ended:
			t.Fatalf("it ended early: %v", err)
		default:
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		select {
		case <-ended:
		default:
			t.Error("a call goes on, though its certificate has expired")
		}
		if all, waiting := w.server.Connections(); all != 0 || waiting != 0 {
			t.Errorf("%d connections are left, %d waiting", all, waiting)
		}
		conn.Close()
		w.stop()
	})
}

// TestStrangers connects more who show no certificate than may stay.
func TestStrangers(t *testing.T) {
	w := secure(t)
	ended := hang(t, w.dial(w.as(web1)))
	const more = 3
	var conns []net.Conn
	for i := range server.MaxStrangers + more {
		w.dialer = w.from(i * 8 / (server.MaxStrangers + more))
		conns = append(conns, handshake(t, w, w.nobody()))
		defer conns[len(conns)-1].Close()
		if _, err := conns[len(conns)-1].Read(make([]byte, 1)); err != nil { // the server knows it, then
			t.Fatal(err)
		}
	}
	for i, c := range conns[:more] {
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("stranger %d was not sent away", i)
		}
	}
	if all, _ := w.server.Connections(); all != server.MaxStrangers+1 {
		t.Errorf("%d connections, want %d strangers and a host", all, server.MaxStrangers)
	}
	select {
	case err := <-ended:
		t.Errorf("the host's call ended: %v", err)
	default:
	}
}

// TestUnknownEach: one address can't take all the places of those whom nobody
// knows, with and without handshakes; who is known is no part of it.
func TestUnknownEach(t *testing.T) {
	w := secure(t)
	ended := hang(t, w.dial(w.as(web1)))
	other := func() net.Conn {
		t.Helper()
		w.dialer = w.from(1)
		defer func() { w.dialer = w.from(0) }()
		c := handshake(t, w, w.nobody())
		t.Cleanup(func() { c.Close() })
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := other()
	for i := range 2 * server.MaxHalfOpen {
		var c net.Conn
		if i%8 == 0 {
			c = handshake(t, w, w.nobody())
		} else {
			var err error
			if c, err = w.dialer(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		defer c.Close()
	}
	other()
	if all, _ := w.server.Connections(); all > server.MaxUnknownEach+3 {
		t.Errorf("%d connections, want %d from one address, and three more", all, server.MaxUnknownEach)
	}
	if err := first.SetReadDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, first); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("who came from elsewhere was sent away: %v", err)
	}
	select {
	case err := <-ended:
		t.Errorf("the host's call ended: %v", err)
	default:
	}
	if err := poll(w.dial(w.as(web1))); err != nil {
		t.Errorf("a poll from that address: %v", err)
	}
}

// TestStrangerTime: who shows no certificate can't stay.
func TestStrangerTime(t *testing.T) {
	inBubble(t, func(t *testing.T, w *secured) {
		conn := w.dial(w.nobody())
		stream, err := healthv1.NewHealthClient(conn).Watch(t.Context(), &healthv1.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		for err == nil {
			_, err = stream.Recv()
		}
		if took := time.Since(start); took > server.StrangerTime {
			t.Errorf("a stranger's call went on for %v, want %v at most", took, server.StrangerTime)
		}
		conn.Close()
		synctest.Wait()
		w.stop()
	})
}

// handshake returns a connection whose handshake is over.
func handshake(t *testing.T, w *secured, config *tls.Config) net.Conn {
	t.Helper()
	raw, err := w.dialer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	config.NextProtos = []string{"h2"}
	conn := tls.Client(raw, config)
	if err := conn.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	if err := conn.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return conn
}

// TestTalkativeStranger sends more than a request for a certificate takes.
func TestTalkativeStranger(t *testing.T) {
	w := secure(t)
	client := espalierv1.NewTrustServiceClient(w.dial(w.nobody()))
	_, err := client.Enroll(t.Context(), &espalierv1.EnrollRequest{Request: make([]byte, 2*server.MaxStrangerBytes)})
	if status.Code(err) != codes.Unavailable {
		t.Errorf("Enroll with a message too large = %v, want %v", err, codes.Unavailable)
	}
	_, err = client.Enroll(t.Context(), &espalierv1.EnrollRequest{Request: make([]byte, pki.MaxRequestBytes)})
	if code := status.Code(err); code != codes.InvalidArgument && code != codes.Unavailable {
		t.Errorf("Enroll with a request that is malformed = %v", err)
	}
}

// TestConnectionsEach opens more connections than one bearer may have.
func TestConnectionsEach(t *testing.T) {
	inBubble(t, func(t *testing.T, w *secured) {
		var hanging []<-chan error
		var conns []*grpc.ClientConn
		config := w.as(web1)
		for range server.MaxHostConnections + 1 {
			conns = append(conns, w.dial(config))
			hanging = append(hanging, hang(t, conns[len(conns)-1]))
			synctest.Wait()
		}
		var over []int
		for i, h := range hanging {
			select {
			case <-h:
				over = append(over, i)
			default:
			}
		}
		if !slices.Equal(over, []int{0}) {
			t.Errorf("connections %v of a host were ended, want the first", over)
		}
		config = w.as(root)
		for i := range server.MaxOperatorConnections + 1 {
			conns = append(conns, w.dial(config))
			_, err := healthv1.NewHealthClient(conns[len(conns)-1]).Check(t.Context(), &healthv1.HealthCheckRequest{})
			if (err == nil) != (i < server.MaxOperatorConnections) {
				t.Errorf("connection %d of an operator: %v", i, err)
			}
		}
		for _, c := range conns {
			c.Close()
		}
		synctest.Wait()
		if all, waiting := w.server.Connections(); all != 0 || waiting != 0 {
			t.Errorf("%d connections are left, %d waiting", all, waiting)
		}
		w.stop()
	})
}

// TestHandshakesThatFail leave nothing behind, at whichever point they end.
func TestHandshakesThatFail(t *testing.T) {
	inBubble(t, func(t *testing.T, w *secured) {
		for name, fail := range map[string]func(){
			"nothing is said": func() {
				c, _ := w.dialer(t.Context())
				synctest.Wait()
				c.Close()
			},
			"nothing is ever said": func() {
				_, _ = w.dialer(t.Context())
				time.Sleep(server.HandshakeTimeout + time.Second)
			},
			"no TLS": func() {
				c, _ := w.dialer(t.Context())
				_, _ = c.Write([]byte("GET / HTTP/1.0\r\n\r\n"))
			},
			"no HTTP/2": func() {
				c := handshake(t, w, w.as(web1))
				_, _ = c.Write([]byte("GET / HTTP/1.0\r\nHost: localhost\r\n\r\n"))
			},
			"nothing after the handshake": func() {
				handshake(t, w, w.as(web1))
				time.Sleep(server.HandshakeTimeout + time.Second)
			},
			"closed after the handshake": func() {
				c := handshake(t, w, w.as(web1))
				c.Close()
			},
			"nobody's certificate": func() {
				config := w.forged(web1, func(c *x509.Certificate) { c.URIs = nil })
				c := handshake(t, w, config)
				_, err := c.Read(make([]byte, 1))
				if err == nil || errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("a certificate of nobody is accepted: %v", err)
				}
			},
		} {
			fail()
			synctest.Wait()
			if all, waiting := w.server.Connections(); all != 0 || waiting != 0 {
				t.Errorf("%s: %d connections are left, %d waiting", name, all, waiting)
			}
		}
		w.stop()
	})
}
