package server_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"espalier/internal/desired"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/server"
	"espalier/store"
)

// A server of a store with one set, on loopback, and a client that asks it for
// the set's head.
func Example() {
	dir, err := os.MkdirTemp("", "example-*")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	quiet := slog.New(slog.DiscardHandler)
	s, err := store.Open(dir, store.Options{Logger: quiet})
	if err != nil {
		panic(err)
	}
	changes := func(yield func(desired.Change, error) bool) {
		yield(desired.Change{Key: []byte("motd"), Envelope: desired.Envelope("\x00hello")}, nil)
	}
	if _, err := s.Commit(context.Background(), "web-01", store.Commit{Changes: changes}); err != nil {
		panic(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	stopped := make(chan error)
	go func() { stopped <- server.New(s, server.Options{Logger: quiet, ScratchDir: dir}).Run(ctx, l) }()

	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		panic(err)
	}
	resp, err := espalierv1.NewOperatorServiceClient(conn).GetHead(ctx, &espalierv1.GetHeadRequest{Set: "web-01"})
	if err != nil {
		panic(err)
	}
	fmt.Printf("revision %d, %d object\n", resp.GetHead().GetPosition().GetNumber(), resp.GetHead().GetObjects())
	conn.Close()
	stop()
	if err := errors.Join(<-stopped, s.Close()); err != nil {
		panic(err)
	}
	// Output: revision 1, 1 object
}
