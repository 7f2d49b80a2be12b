package cli

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"espalier/internal/wire"
)

// TestSettle: a server that never says a word is given up in time; what refuses
// is left to the first call.
func TestSettle(t *testing.T) {
	for name, c := range map[string]struct {
		dial func(context.Context, string) (net.Conn, error)
		want error
		took time.Duration
	}{
		"silent": {func(context.Context, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go func() {
				for b := make([]byte, 1024); ; {
					if _, err := theirs.Read(b); err != nil {
						return
					}
				}
			}()
			return ours, nil
		}, wire.ErrUnreachable, connectTimeout - time.Second},
		"refusing": {func(context.Context, string) (net.Conn, error) { return nil, errors.New("refused") }, nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conn, err := grpc.NewClient("passthrough:///x", grpc.WithContextDialer(c.dial),
					grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithConnectParams(connectParams))
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				start := time.Now()
				if err := settle(t.Context(), conn); !errors.Is(err, c.want) {
					t.Errorf("settle = %v, want %v", err, c.want)
				}
				if took := time.Since(start); took != c.took {
					t.Errorf("it took %v, want %v", took, c.took)
				}
			})
		})
	}
}
