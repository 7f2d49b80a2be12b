package server_test

import (
	"errors"
	"fmt"
	"testing"

	"espalier/internal/wire"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/store"
)

func TestListSets(t *testing.T) {
	conn := start(t)
	client := espalierv1.NewOperatorServiceClient(conn)
	for i := range 7 {
		if _, err := commit(t, conn, &espalierv1.CommitTerms{Set: fmt.Sprint("s", i)}, frame(t, put("a", "1"))); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		after string
		limit uint32
		want  string
		more  bool
	}{
		{"", 0, "s0 s1 s2 s3 s4 s5 s6 ", false},
		{"", 3, "s0 s1 s2 ", true},
		{"s2", 3, "s3 s4 s5 ", true},
		{"s2", 4, "s3 s4 s5 s6 ", false},
		{"s2x", 1, "s3 ", true},
		{"s5", 1 << 31, "s6 ", false},
		{"s6", 3, "", false},
	} {
		resp, err := client.ListSets(t.Context(), &espalierv1.ListSetsRequest{After: c.after, Limit: c.limit})
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, s := range resp.GetSets() {
			got += s.GetName() + " "
		}
		if got != c.want || resp.GetMore() != c.more {
			t.Errorf("%d sets after %q: %q, more: %v; want %q, %v", c.limit, c.after, got, resp.GetMore(), c.want, c.more)
		}
	}
}

func TestDeleteSet(t *testing.T) {
	conn := start(t)
	client := espalierv1.NewOperatorServiceClient(conn)
	if _, err := commit(t, conn, &espalierv1.CommitTerms{Set: "s"}, frame(t, put("a", "1"))); err != nil {
		t.Fatal(err)
	}
	req := &espalierv1.DeleteSetRequest{Set: "s", Expect: &espalierv1.Position{Number: 2}}
	if _, err := client.DeleteSet(t.Context(), req); !errors.Is(wire.FromStatus(err), store.ErrConflict) {
		t.Errorf("DeleteSet of another revision = %v, want %v", err, store.ErrConflict)
	}
	req.Expect.Number = 1
	resp, err := client.DeleteSet(t.Context(), req)
	if err != nil || resp.GetHead().GetObjects() != 1 {
		t.Errorf("DeleteSet = %v, %v, want what it held", resp, err)
	}
}
