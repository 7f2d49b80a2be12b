package wire_test

import (
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/internal/wire"
	"espalier/merkle"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/store"
)

// over sends a message through its encoding.
func over[M proto.Message](t *testing.T, m M) M {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	read := m.ProtoReflect().New().Interface()
	if err := proto.Unmarshal(b, read); err != nil {
		t.Fatal(err)
	}
	return read.(M)
}

var head = desired.Head{
	Revision: desired.Revision{Position: desired.Position{Epoch: desired.Epoch{1, 2}, Number: 7}, Root: desired.Digest{3}},
	Objects:  5, Bytes: 6, Lineage: []desired.Position{{Epoch: desired.Epoch{9}, Number: 4}},
}

func TestPullRoundTrip(t *testing.T) {
	for _, want := range []delta.Request{
		{Open: &delta.Open{Set: "s", Mode: delta.Since, Base: head.Revision, After: []byte("k"), Seed: 8, Width: 4}},
		{Open: &delta.Open{Set: "s", Mode: delta.Compare, Seed: 8, Width: 32, From: []byte("a"), Until: []byte("b")}},
		{Narrow: []byte{1, 2}},
		{Leaves: []byte{1}},
	} {
		got, err := wire.PullRequestFromWire(over(t, wire.PullRequestToWire(want)))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("request %+v came as %+v, %v", want, got, err)
		}
	}
	for _, want := range []delta.Response{
		{Begin: &delta.Begin{Mode: delta.Descent, Head: head, Height: 4, Salt: 5}},
		{Digests: &delta.Digests{Data: []byte{1}, Last: true}},
		{Batch: &delta.Batch{Frame: []byte{1}, Parts: []byte{2}}},
		{End: &delta.End{Head: head}},
	} {
		got, err := wire.PullResponseFromWire(over(t, wire.PullResponseToWire(want)))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("response %+v came as %+v, %v", want, got, err)
		}
	}
}

func TestPollRoundTrip(t *testing.T) {
	held := []delta.Held{{Name: "a", Epoch: 1, Number: 2, Root: 3}, {Name: "b"}}
	got, err := wire.PollRequestFromWire(over(t, wire.PollRequestToWire(held)))
	if err != nil || !reflect.DeepEqual(got, held) {
		t.Errorf("held %+v came as %+v, %v", held, got, err)
	}
	want := []wire.Answer{
		{Status: wire.StatusDelta, Number: 3, Root: head.Root, Frame: []byte{0, 1}},
		{Index: 1, Status: wire.StatusPull, Head: head},
		{Index: 2, Status: wire.StatusUnknown},
	}
	next, answers, err := wire.PollResponseFromWire(over(t, wire.PollResponseToWire(1500*time.Millisecond, want)), 3)
	if err != nil || next != 1500*time.Millisecond || !reflect.DeepEqual(answers, want) {
		t.Errorf("answers %+v came as %+v, %v, %v", want, answers, next, err)
	}
	if _, _, err := wire.PollResponseFromWire(wire.PollResponseToWire(0, want), 2); !errors.Is(err, delta.ErrProtocol) {
		t.Errorf("more answers than sets: %v, want %v", err, delta.ErrProtocol)
	}
}

func TestErrorsKeepWhatTheyMatch(t *testing.T) {
	for _, want := range []error{
		desired.ErrInvalid, delta.ErrProtocol, delta.ErrTooDifferent, merkle.ErrOrder, merkle.ErrTooWide, wire.ErrNoObject,
		store.ErrNotFound, store.ErrConflict, store.ErrTooManyDeletes, store.ErrRequestReused, store.ErrQuarantined,
		store.ErrCorrupt, store.ErrFormat, store.ErrDiskFull,
	} {
		got := wire.FromStatus(wire.ToStatus(fmt.Errorf("set s: %w, so there", want)))
		if !errors.Is(got, want) || got.Error() != fmt.Sprintf("set s: %v, so there", want) {
			t.Errorf("%v came as %v", want, got)
		}
	}
	if got := wire.FromStatus(status.Error(codes.Unavailable, "gone")); !errors.Is(got, wire.ErrUnreachable) {
		t.Errorf("unavailable came as %v", got)
	}
	if wire.ToStatus(nil) != nil || wire.FromStatus(nil) != nil {
		t.Error("nil is no error")
	}
}

// FuzzFromWire hands arbitrary messages to everything that reads them: nothing
// panics, and what passes is within the bounds.
func FuzzFromWire(f *testing.F) {
	add := func(m proto.Message) {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	add(wire.PullRequestToWire(delta.Request{Open: &delta.Open{Set: "s", Mode: delta.Since, Base: head.Revision, Width: 4}}))
	add(wire.PullResponseToWire(delta.Response{Begin: &delta.Begin{Mode: delta.Full, Head: head}}))
	add(wire.PollRequestToWire([]delta.Held{{Name: "a", Number: 2}}))
	add(wire.PollResponseToWire(0, []wire.Answer{{Status: wire.StatusPull, Head: head}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var request espalierv1.PullRequest
		if proto.Unmarshal(b, &request) == nil {
			if r, err := wire.PullRequestFromWire(&request); err == nil && r.Open != nil && len(r.Open.After) > desired.MaxKeyBytes {
				t.Errorf("after has %d bytes", len(r.Open.After))
			}
		}
		var response espalierv1.PullResponse
		if proto.Unmarshal(b, &response) == nil {
			_, _ = wire.PullResponseFromWire(&response)
		}
		var poll espalierv1.PollRequest
		if proto.Unmarshal(b, &poll) == nil {
			if held, err := wire.PollRequestFromWire(&poll); err == nil && len(held) > wire.MaxPolledSets {
				t.Errorf("a poll of %d sets", len(held))
			}
		}
		var answer espalierv1.PollResponse
		if proto.Unmarshal(b, &answer) == nil {
			_, _, _ = wire.PollResponseFromWire(&answer, 3)
		}
		var terms espalierv1.CommitTerms
		if proto.Unmarshal(b, &terms) == nil {
			_, _ = wire.CommitFromWire(&terms)
			_, _ = wire.OriginFromWire(terms.GetRestore())
		}
	})
}
