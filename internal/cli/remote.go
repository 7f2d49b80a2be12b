package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/internal/pki"
	"espalier/internal/wire"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/store"
)

const defaultServer = "127.0.0.1:7600"

// A command whose server vanished without a word ends within a minute.
var keepaliveParams = keepalive.ClientParameters{Time: 40 * time.Second, Timeout: 20 * time.Second}

// connectTimeout bounds how long making a connection may take, up to the first
// word of the server.
const connectTimeout = 15 * time.Second

// While a connection can't be made, gRPC fails all calls at once until it tries
// again: that has to be soon, or a command that tries again would not find out.
var connectParams = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
	MinConnectTimeout: connectTimeout,
}

// remote is a server to talk to, as the flags name it.
type remote struct {
	address  string
	insecure bool
	identity string // the file of an operator's credentials
	shown    string // the file whose credentials the server has been shown; "": none
	made     bool   // those credentials, or an agent's, were not had for a token
}

func (r *remote) addFlags(c *cobra.Command) {
	r.addServer(c)
	c.Flags().StringVar(&r.identity, "identity", os.Getenv("ESPALIER_IDENTITY"),
		"file of your credentials (or ESPALIER_IDENTITY; else what 'espalier login' wrote)")
}

// addServer adds those flags that say where the server is.
func (r *remote) addServer(c *cobra.Command) {
	c.Flags().StringVar(&r.address, "server", cmp.Or(os.Getenv("ESPALIER_SERVER"), defaultServer),
		"address of the server (or ESPALIER_SERVER)")
	c.Flags().BoolVar(&r.insecure, "insecure", false, "talk without TLS; on loopback only")
}

// checkAddress returns an error unless the address may be used.
func (r *remote) checkAddress() error { return checkAddress(r.address, r.insecure) }

// check returns an error unless the address and the credentials may be used.
func (r *remote) check() error {
	if err := r.checkAddress(); err != nil {
		return err
	}
	_, err := r.credentials()
	return err
}

// identityPath returns the file of the operator's credentials.
func (r *remote) identityPath() (string, error) {
	if r.identity != "" {
		return r.identity, nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", misusef("--identity: %w", err)
	}
	return filepath.Join(dir, "espalier", store.IdentityFile), nil
}

// credentials returns those that secure the connection.
func (r *remote) credentials() (credentials.TransportCredentials, error) {
	if r.insecure {
		return insecure.NewCredentials(), nil
	}
	path, err := r.identityPath()
	if err != nil {
		return nil, err
	}
	c, err := pki.ReadCredentials(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, misusef("there are no credentials at %s: run 'espalier login' with a token, or name a file with --identity; "+
			"on the server's machine, pki/admin.pem in its data folder is one", path)
	case err != nil:
		return nil, misusef("%w\n'espalier login' with a new token writes it anew, unless an authority of your own has signed it", err)
	case !time.Now().Before(c.Expires()) && !c.ByToken():
		return nil, misusef("the certificate in %s expired at %s: have your authority sign a new one", path, c.Expires().Format(time.RFC3339))
	case !time.Now().Before(c.Expires()):
		return nil, misusef("the certificate in %s expired at %s: run 'espalier login' with a new token, "+
			"which an admin's 'espalier token create' makes; the server renews pki/admin.pem in its data folder when it starts", path, c.Expires().Format(time.RFC3339))
	}
	r.shown, r.made = path, !c.ByToken()
	return credentials.NewTLS(pki.NewHolder(c).ClientConfig()), nil
}

// checkAddress refuses what is no address, and plain text anywhere but on
// loopback.
func checkAddress(address string, plain bool) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return misusef("address %q: want host:port", address)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return misusef("address %q: the port has to be a number from 0 to 65535", address)
	}
	if !plain {
		return nil
	}
	if ip, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !ip.IsLoopback()) {
		return misusef("--insecure is refused on %s: it is not a loopback address", address)
	}
	return nil
}

// dial prepares a connection, which the caller closes.
func (r *remote) dial() (*grpc.ClientConn, error) {
	if err := r.checkAddress(); err != nil {
		return nil, err
	}
	creds, err := r.credentials()
	if err != nil {
		return nil, err
	}
	return r.dialWith(r.address, creds)
}

// dialWith is dial of an address with certain credentials.
func (r *remote) dialWith(address string, creds credentials.TransportCredentials) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient(address,
		grpc.WithTransportCredentials(creds),
		grpc.WithStaticStreamWindowSize(4<<20), grpc.WithStaticConnWindowSize(8<<20),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(delta.MaxMessageBytes), grpc.MaxCallSendMsgSize(delta.MaxMessageBytes)),
		grpc.WithKeepaliveParams(keepaliveParams),
		grpc.WithConnectParams(connectParams),
		grpc.WithDisableServiceConfig())
	if err != nil {
		return nil, fmt.Errorf("server %s: %w", address, err)
	}
	return conn, nil
}

// settle waits until conn is made or refused. It returns an error where it is of
// no use to try again: one that matches wire.ErrUnreachable for a server that
// does neither, which would only take as long again, and one for an impostor.
func settle(ctx context.Context, conn *grpc.ClientConn) error {
	ctx, cancel := context.WithTimeoutCause(ctx, connectTimeout-time.Second, // or gRPC would take it for refused
		fmt.Errorf("%w: something accepts connections at %s, but does not answer", wire.ErrUnreachable, conn.Target()))
	defer cancel()
	conn.Connect()
	for state := conn.GetState(); state == connectivity.Idle || state == connectivity.Connecting; state = conn.GetState() {
		if !conn.WaitForStateChange(ctx, state) {
			return context.Cause(ctx)
		}
	}
	if conn.GetState() != connectivity.TransientFailure {
		return nil
	}
	_, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{}) // which fails, and says why
	if err = wire.FromStatus(err); impostor(err) {
		return err
	}
	return nil
}

// operate calls fn with a client of the server.
func (r *remote) operate(fn func(espalierv1.OperatorServiceClient) error) error {
	conn, err := r.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	return fn(espalierv1.NewOperatorServiceClient(conn))
}

// eachMessage calls fn with each message of a stream until that ends.
func eachMessage[M any](stream grpc.ServerStreamingClient[M], fn func(*M) error) error {
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return wire.FromStatus(err)
		}
		if err := fn(m); err != nil {
			return err
		}
	}
}

// setName parses the name of a set that was given as an argument.
func setName(arg string) (desired.Name, error) {
	name, err := desired.ParseName(arg)
	if err != nil {
		return "", misuse{err}
	}
	return name, nil
}
