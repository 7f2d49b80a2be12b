package server_test

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"espalier/internal/wire"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/server"
	"espalier/store"
)

// TestRevisions asks for the log of a set with more revisions than a message
// has.
func TestRevisions(t *testing.T) {
	conn := start(t)
	const revisions = 2*server.MaxLoggedRevisions + 3
	for i := range revisions {
		terms := &espalierv1.CommitTerms{Set: "s", Why: fmt.Sprint("why ", i+1)}
		if _, err := commit(t, conn, terms, frame(t, put("a", fmt.Sprint(i)))); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ limit, want uint64 }{
		{0, revisions},
		{1, 1},
		{server.MaxLoggedRevisions, server.MaxLoggedRevisions},
		{server.MaxLoggedRevisions + 1, server.MaxLoggedRevisions + 1},
		{1 << 40, revisions},
	} {
		stream, err := espalierv1.NewOperatorServiceClient(conn).Log(t.Context(), &espalierv1.LogRequest{Set: "s", Limit: c.limit})
		if err != nil {
			t.Fatal(err)
		}
		seen := uint64(0)
		for {
			resp, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(resp.GetEntries()) > server.MaxLoggedRevisions {
				t.Errorf("a message has %d revisions", len(resp.GetEntries()))
			}
			for _, m := range resp.GetEntries() {
				e, err := wire.LogEntryFromWire(m)
				number := revisions - seen
				if err != nil || e.Number != number || e.Why != fmt.Sprint("why ", number) || e.Who != "bufconn" || e.Base != (number == 1) {
					t.Fatalf("revision %d: %+v, %v", number, e, err)
				}
				seen++
			}
		}
		if seen != c.want {
			t.Errorf("a log of %d at most has %d revisions, want %d", c.limit, seen, c.want)
		}
	}
	stream, err := espalierv1.NewOperatorServiceClient(conn).Log(t.Context(), &espalierv1.LogRequest{Set: "none"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !errors.Is(wire.FromStatus(err), store.ErrNotFound) {
		t.Errorf("the log of no set: %v, want %v", err, store.ErrNotFound)
	}
}
