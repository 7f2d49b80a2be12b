package server_test

import (
	"context"
	"errors"
	"io"
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/internal/wire"
	"espalier/merkle"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/server"
	"espalier/store"
)

// send makes a Commit of messages as they are.
func send(t *testing.T, client espalierv1.OperatorServiceClient, requests ...*espalierv1.CommitRequest) (*espalierv1.CommitResponse, error) {
	t.Helper()
	stream, err := client.Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, req := range requests {
		if stream.Send(req) != nil {
			break
		}
	}
	resp, err := stream.CloseAndRecv()
	return resp, wire.FromStatus(err)
}

func TestCommitMessages(t *testing.T) {
	client := espalierv1.NewOperatorServiceClient(start(t))
	terms := &espalierv1.CommitTerms{Set: "s"}
	one, two := frame(t, put("a", "1")), frame(t, put("b", "2"))
	guarded := func(change func(*espalierv1.CommitTerms)) []*espalierv1.CommitRequest {
		m := &espalierv1.CommitTerms{Set: "s"}
		change(m)
		return []*espalierv1.CommitRequest{{Terms: m, Frame: two}}
	}
	limit := func(percent float64) []*espalierv1.CommitRequest {
		return guarded(func(m *espalierv1.CommitTerms) { m.MaxDelete = &espalierv1.DeleteLimit{Percent: percent} })
	}
	for _, c := range []struct {
		name     string
		requests []*espalierv1.CommitRequest
		want     error
	}{
		{"nothing", nil, desired.ErrInvalid},
		{"terms alone, and then changes", []*espalierv1.CommitRequest{{Terms: terms}, {Frame: one}, {}, {Frame: two}}, nil},
		{"terms that come late", []*espalierv1.CommitRequest{{Frame: one}, {Terms: terms, Frame: two}}, desired.ErrInvalid},
		{"terms twice", []*espalierv1.CommitRequest{{Terms: terms, Frame: one}, {Terms: terms, Frame: two}}, desired.ErrInvalid},
		{"a key twice", []*espalierv1.CommitRequest{{Terms: terms, Frame: one}, {Frame: one}}, merkle.ErrOrder},
		{"a limit that is no number", limit(math.NaN()), desired.ErrInvalid},
		{"a limit below zero", limit(-1), desired.ErrInvalid},
		{"a limit above all", limit(math.Inf(1)), nil},
		{"a restore that expects too much", guarded(func(m *espalierv1.CommitTerms) {
			m.Restore, m.Expect = &espalierv1.Restore{}, &espalierv1.Position{Number: 7}
		}), store.ErrConflict},
		{"a restore that deletes too much", guarded(func(m *espalierv1.CommitTerms) {
			m.Restore, m.MaxDelete = &espalierv1.Restore{}, &espalierv1.DeleteLimit{}
		}), store.ErrTooManyDeletes},
		{"a restore with a limit under a prefix", guarded(func(m *espalierv1.CommitTerms) {
			m.Restore, m.MaxDelete = &espalierv1.Restore{}, &espalierv1.DeleteLimit{Percent: 100, Prefix: []byte("b")}
		}), desired.ErrInvalid},
		{"a restore to see what it does", guarded(func(m *espalierv1.CommitTerms) {
			m.Restore = &espalierv1.Restore{DryRun: true}
		}), nil},
		{"a restore to be made once", guarded(func(m *espalierv1.CommitTerms) {
			m.Restore, m.RequestId = &espalierv1.Restore{}, "one"
		}), desired.ErrInvalid},
		{"a restore of too many epochs", guarded(func(m *espalierv1.CommitTerms) {
			m.Restore = &espalierv1.Restore{Known: make([]*espalierv1.Position, desired.MaxLineage+2)}
		}), desired.ErrInvalid},
	} {
		if _, err := send(t, client, c.requests...); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	resp, err := client.GetHead(t.Context(), &espalierv1.GetHeadRequest{Set: "s"})
	if err != nil || resp.GetHead().GetPosition().GetNumber() != 1 || resp.GetHead().GetObjects() != 2 {
		t.Errorf("after all that: %v, %v, want what the one that is right has made", resp, err)
	}
}

func TestMatchRefuses(t *testing.T) {
	conn := start(t)
	if _, err := commit(t, conn, &espalierv1.CommitTerms{Set: "s"}, frame(t, put("a", "1"))); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		req  *espalierv1.MatchRequest
		want error
	}{
		"no set":            {&espalierv1.MatchRequest{Frame: frame(t)}, desired.ErrInvalid},
		"an unknown set":    {&espalierv1.MatchRequest{Set: "t", Frame: frame(t)}, store.ErrNotFound},
		"no frame":          {&espalierv1.MatchRequest{Set: "s"}, delta.ErrProtocol},
		"a malformed frame": {&espalierv1.MatchRequest{Set: "s", Frame: []byte{0xff}}, delta.ErrProtocol},
	} {
		stream, err := espalierv1.NewOperatorServiceClient(conn).Match(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(c.req); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); !errors.Is(wire.FromStatus(err), c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// TestListPrefixes lists by prefixes at the edges of what keys can be.
func TestListPrefixes(t *testing.T) {
	conn := start(t)
	last := "\U0010ffff" // no key has a greater first byte than this
	if _, err := commit(t, conn, &espalierv1.CommitTerms{Set: "s"}, frame(t, put("a", ""), put("a/b", ""), put(last, ""))); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		prefix string
		keys   []string
		want   error
	}{
		{"", []string{"a", "a/b", last}, nil},
		{"a", []string{"a", "a/b"}, nil},
		{"a/b", []string{"a/b"}, nil},
		{"a/b/", nil, nil},
		{last, []string{last}, nil},
		{"\xf4", []string{last}, nil},
		{"\xff", nil, nil},
		{"\xff\xff", nil, nil},
		{string(make([]byte, desired.MaxKeyBytes+1)), nil, desired.ErrInvalid},
	} {
		stream, err := espalierv1.NewOperatorServiceClient(conn).ListObjects(t.Context(),
			&espalierv1.ListObjectsRequest{Set: "s", Prefix: []byte(c.prefix)})
		if err != nil {
			t.Fatal(err)
		}
		var keys []string
		for err == nil {
			var resp *espalierv1.ListObjectsResponse
			if resp, err = stream.Recv(); err != nil {
				break
			}
			var changes []desired.Change
			if changes, err = codec.DecodeFrame(resp.GetFrame()); err != nil {
				t.Fatal(err)
			}
			for _, c := range changes {
				keys = append(keys, string(c.Key))
			}
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
		if !errors.Is(wire.FromStatus(err), c.want) || !slices.Equal(keys, c.keys) {
			t.Errorf("prefix %.10q lists %q, %v, want %q, %v", c.prefix, keys, err, c.keys, c.want)
		}
	}
}

// TestPollRefuses polls as no agent does.
func TestPollRefuses(t *testing.T) {
	client := espalierv1.NewSyncServiceClient(start(t))
	for name, sets := range map[string][]*espalierv1.HeldSet{
		"no name":                {{}},
		"a name that leads away": {{Name: "../s"}},
		"a number too high":      {{Name: "s", Number: desired.MaxNumber + 1}},
		"too many":               make([]*espalierv1.HeldSet, wire.MaxPolledSets+1),
	} {
		_, err := client.Poll(t.Context(), &espalierv1.PollRequest{Sets: sets})
		if !errors.Is(wire.FromStatus(err), desired.ErrInvalid) {
			t.Errorf("%s: %v, want %v", name, err, desired.ErrInvalid)
		}
	}
	resp, err := client.Poll(t.Context(), &espalierv1.PollRequest{Sets: []*espalierv1.HeldSet{
		{Name: "s", Epoch: math.MaxUint64, Number: desired.MaxNumber, Root: math.MaxUint64},
	}})
	if err != nil || len(resp.GetSets()) != 1 || resp.GetSets()[0].GetStatus() != espalierv1.SetAnswer_STATUS_UNKNOWN {
		t.Errorf("a poll of what never was: %v, %v", resp, err)
	}
}

// TestStop stops a server in the middle of a commit that never ends, and one
// that has not begun yet.
func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, l, conn := listen(t)
		ctx, cancel := context.WithCancel(context.Background())
		stopped := make(chan error, 1)
		go func() { stopped <- server.New(s, server.Options{ScratchDir: t.TempDir(), ScrubBytes: -1}).Run(ctx, l) }()
		stream, err := espalierv1.NewOperatorServiceClient(conn).Commit(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&espalierv1.CommitRequest{Terms: &espalierv1.CommitTerms{Set: "s"}, Frame: frame(t, put("a", "1"))}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		cancel()
		start := time.Now()
		if err := <-stopped; err != nil {
			t.Errorf("Run = %v", err)
		}
		if took := time.Since(start); took != server.StopTimeout {
			t.Errorf("it took %v to stop, want %v", took, server.StopTimeout)
		}
		if _, err := stream.CloseAndRecv(); status.Code(err) != codes.Unavailable {
			t.Errorf("the commit ends with %v", err)
		}
		if heads := s.Heads(); len(heads) != 0 {
			t.Errorf("half a commit has made %v", heads)
		}

		l = bufconn.Listen(1)
		if err := server.New(s, server.Options{}).Run(ctx, l); err != nil {
			t.Errorf("Run of what is stopped already = %v", err)
		}
		if err := errors.Join(conn.Close(), s.Close()); err != nil {
			t.Error(err)
		}
	})
}
