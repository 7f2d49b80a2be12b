package agent_test

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"os"

	"google.golang.org/grpc/credentials/insecure"

	"espalier/agent"
	"espalier/internal/desired"
	"espalier/server"
	"espalier/store"
)

// An agent that hands what changes to a function; with a server beside it, to
// have something to follow.
func Example() {
	dir, err := os.MkdirTemp("", "example-*")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	quiet := slog.New(slog.DiscardHandler)
	s, err := store.Open(dir+"/server", store.Options{Logger: quiet})
	if err != nil {
		panic(err)
	}
	defer s.Close()
	var changes iter.Seq2[desired.Change, error] = func(yield func(desired.Change, error) bool) {
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
	go func() { stopped <- server.New(s, server.Options{Logger: quiet}).Run(ctx, l) }()

	a, err := agent.Open(agent.Options{
		Host: "web-01", Dir: dir + "/agent", Server: l.Addr().String(), Logger: quiet,
		Credentials: insecure.NewCredentials(), // on loopback; else Join comes first
		Handler: agent.HandlerFunc(func(_ context.Context, u agent.Update) error {
			for c, err := range u.Changes {
				if err != nil {
					return err
				}
				_, value, err := c.Envelope.Split()
				if err != nil {
					return err
				}
				fmt.Printf("%s of revision %d: %s = %s\n", u.Set, u.Head.Number, c.Key, value)
			}
			return nil
		}),
	})
	if err != nil {
		panic(err)
	}
	if _, err := a.Sync(ctx); err != nil { // a.Run goes on until its context is done
		panic(err)
	}
	if err := a.Close(); err != nil {
		panic(err)
	}
	stop()
	if err := <-stopped; err != nil {
		panic(err)
	}
	// Output: web-01 of revision 1: motd = hello
}
