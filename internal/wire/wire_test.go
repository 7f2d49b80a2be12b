package wire_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/internal/fleet"
	"espalier/internal/spool"
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
		{End: &delta.End{}},
	} {
		got, err := wire.PullResponseFromWire(over(t, wire.PullResponseToWire(want)))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("response %+v came as %+v, %v", want, got, err)
		}
	}
}

func TestPollRoundTrip(t *testing.T) {
	report := desired.Report{
		Agent: "v1", Problems: []desired.Problem{{Set: "b", Text: "no", Refused: true}, {Text: "list"}}, More: 2, Applying: convergence(),
	}
	for _, named := range []bool{false, true} {
		want := wire.Poll{
			Host: "a", Held: []delta.Held{{Name: "a", Epoch: 1, Number: 2, Root: 3}, {Name: "b", Gone: true}},
			ListVersion: 4, ListSum: 5, Report: &report, Hold: time.Minute,
		}
		m := over(t, wire.PollToWire(want, named))
		host := want.Host // by its certificate
		if named {
			host = ""
		}
		got, err := wire.PollFromWire(m, host)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("poll %+v came as %+v, %v", want, got, err)
		}
		if named {
			if got, err = wire.PollFromWire(m, "c"); err != nil || got.Host != "c" || got.Held[0].Name != "c" {
				t.Errorf("a poll of a that shows c's certificate came as %+v, %v, want one of c", got, err)
			}
		}
	}
	if _, err := wire.PollFromWire(&espalierv1.PollRequest{Sets: []*espalierv1.HeldSet{{}}}, ""); !errors.Is(err, desired.ErrInvalid) {
		t.Errorf("a poll of a set without a name by nobody: %v, want %v", err, desired.ErrInvalid)
	}
}

func TestPollAnswerRoundTrip(t *testing.T) {
	want := wire.PollAnswer{
		Next: 1500 * time.Millisecond,
		Sets: []wire.Answer{
			{Status: wire.StatusDelta, Number: 3, Root: head.Root, Frame: []byte{0, 1}, Age: 1234 * time.Millisecond},
			{Index: 1, Status: wire.StatusPull, Head: head, Age: 400 * 24 * time.Hour},
			{Index: 2, Status: wire.StatusUnknown},
		},
		List: &desired.List{
			Version: 2, Sets: []desired.Name{"a", "b"}, Left: []desired.Name{"c"},
			Orders: desired.Orders{Paused: true, Why: "ü", Release: head.Root, Released: 1},
		},
		Tell: true,
		Held: true,
	}
	got, err := wire.PollAnswerFromWire(over(t, wire.PollAnswerToWire(want)), 3)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("answer %+v came as %+v, %v", want, got, err)
	}
	for next, want := range map[time.Duration]time.Duration{-time.Second: 0, 1 << 62: math.MaxUint32 * time.Millisecond} {
		got, err := wire.PollAnswerFromWire(wire.PollAnswerToWire(wire.PollAnswer{Next: next}), 0)
		if got.Next != want || err != nil {
			t.Errorf("to poll in %v came as %v, %v, want %v", next, got.Next, err, want)
		}
	}
	if _, err := wire.PollAnswerFromWire(wire.PollAnswerToWire(want), 2); !errors.Is(err, delta.ErrProtocol) {
		t.Errorf("more answers than sets: %v, want %v", err, delta.ErrProtocol)
	}
	for age, want := range map[uint64]time.Duration{0: 0, 1: time.Millisecond, math.MaxUint64: math.MaxInt64 / time.Millisecond * time.Millisecond} {
		got, err := wire.PollAnswerFromWire(&espalierv1.PollResponse{Sets: []*espalierv1.SetAnswer{{Status: 2, AgeMs: age}}}, 1)
		if err != nil || got.Sets[0].Age != want {
			t.Errorf("an age of %d ms came as %v, %v, want %v", age, got.Sets, err, want)
		}
	}
	bad := wire.PollAnswer{List: &desired.List{Version: 1}}
	if _, err := wire.PollAnswerFromWire(wire.PollAnswerToWire(bad), 0); !errors.Is(err, delta.ErrProtocol) {
		t.Errorf("an empty list of sets: %v, want %v", err, delta.ErrProtocol)
	}
	for name, m := range map[string]*espalierv1.HostList{
		"a short root":         {Version: 1, Sets: []string{"a"}, Release: []byte{1}, Released: 1},
		"a release of nothing": {Version: 1, Sets: []string{"a"}, Released: 1},
		"a reason alone":       {Version: 1, Sets: []string{"a"}, Why: "x"},
	} {
		if _, err := wire.ListFromWire(m); !errors.Is(err, delta.ErrProtocol) {
			t.Errorf("orders with %s: %v, want %v", name, err, delta.ErrProtocol)
		}
	}
}

func TestHostRoundTrip(t *testing.T) {
	now := time.UnixMilli(1_700_000_000_000)
	want := fleet.Host{
		Name: "a", List: desired.List{Version: 3, Sets: []desired.Name{"base", "a"}, Left: []desired.Name{"old"}},
		At: now.Add(-time.Second), Address: "10.0.0.1", Held: []delta.Held{{Name: "base", Number: head.Number, Epoch: head.Epoch.Prefix(), Root: head.Root.Prefix()}, {Name: "a"}},
		ListVersion: 2, ListState: fleet.ListBehind, Report: desired.Report{Agent: "v1", Problems: []desired.Problem{{Text: "no"}}, Applying: convergence()},
		Next: 30 * time.Second, Pace: "objective",
	}
	m := over(t, wire.HostToWire(want, now, func(name desired.Name) (desired.Head, error) {
		if name == "base" {
			return head, nil
		}
		return desired.Head{}, store.ErrNotFound
	}))
	got, err := wire.HostFromWire(m)
	if err != nil || !reflect.DeepEqual(got.Host, want) {
		t.Errorf("host %+v came as %+v, %v", want, got.Host, err)
	}
	if got.Age != time.Second || got.State != fleet.Troubled || !got.Sets[0].Current || got.Sets[1].Current || got.Sets[0].Head != head.Number {
		t.Errorf("its state came as %+v", got)
	}
}

func TestRestoreRoundTrip(t *testing.T) {
	for _, want := range []store.Restore{
		{},
		{
			From: store.Origin{Known: head.Lineage, Salt: 7}, Expect: &desired.Position{Epoch: desired.Epoch{1}, Number: 2},
			MaxDelete: &store.DeleteLimit{Count: 3, Percent: 4.5}, DryRun: true, Why: "why",
		},
		{Expect: &desired.Position{}, MaxDelete: &store.DeleteLimit{}},
	} {
		got, err := wire.RestoreFromWire(over(t, wire.RestoreToWire("s", want)))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("restore %+v came as %+v, %v", want, got, err)
		}
	}
	for _, want := range []store.Restored{
		{Head: head, Replaced: head, Created: 1, Updated: 2, Deleted: 3, Unchanged: 4},
		{Damage: fmt.Errorf("page \xff: %w", store.ErrCorrupt), Refused: fmt.Errorf("%w: unknown", store.ErrTooManyDeletes)},
	} {
		got, err := wire.RestoredFromWire(over(t, wire.RestoredToWire(want)))
		if err != nil || !errors.Is(got.Damage, want.Damage) && !errors.Is(got.Damage, store.ErrCorrupt) ||
			want.Refused != nil && (!errors.Is(got.Refused, store.ErrTooManyDeletes) || got.Refused.Error() != want.Refused.Error()) {
			t.Errorf("%+v came as %+v, %v", want, got, err)
		}
		got.Damage, got.Refused, want.Damage, want.Refused = nil, nil, nil, nil
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%+v came as %+v", want, got)
		}
	}
}

func TestLogEntryRoundTrip(t *testing.T) {
	want := store.LogEntry{Revision: head.Revision, Time: time.UnixMilli(1700000000123), Who: "who", Why: "why", Keys: 7, Base: true}
	got, err := wire.LogEntryFromWire(over(t, wire.LogEntryToWire(want)))
	if err != nil || got != want {
		t.Errorf("%+v came as %+v, %v", want, got, err)
	}
	for _, m := range []*espalierv1.LogEntry{nil, {Root: head.Root[:]}, {Position: &espalierv1.Position{Number: 1}}, {Root: []byte{1}}} {
		if _, err := wire.LogEntryFromWire(m); !errors.Is(err, delta.ErrProtocol) {
			t.Errorf("%v: %v, want %v", m, err, delta.ErrProtocol)
		}
	}
}

func TestSetRoundTrip(t *testing.T) {
	for _, want := range []store.NamedHead{{Name: "s", Head: head}, {Name: "s", Err: fmt.Errorf("set s is %w: page \xff", store.ErrQuarantined)}} {
		got, err := wire.SetFromWire(over(t, wire.SetToWire(want)))
		if err != nil || got.Name != want.Name || !reflect.DeepEqual(got.Head, want.Head) || (got.Err == nil) != (want.Err == nil) ||
			want.Err != nil && !errors.Is(got.Err, store.ErrQuarantined) {
			t.Errorf("%+v came as %+v, %v", want, got, err)
		}
	}
	for _, m := range []*espalierv1.SetInfo{nil, {Name: "s"}, {Name: "../s", Error: "bad"}} {
		if _, err := wire.SetFromWire(m); !errors.Is(err, delta.ErrProtocol) {
			t.Errorf("%v: %v, want %v", m, err, delta.ErrProtocol)
		}
	}
}

func TestErrorsKeepWhatTheyMatch(t *testing.T) {
	for _, want := range []error{
		desired.ErrInvalid, delta.ErrProtocol, delta.ErrTooDifferent, merkle.ErrOrder, merkle.ErrTooWide, wire.ErrNoObject,
		store.ErrNotFound, store.ErrConflict, store.ErrTooManyDeletes, store.ErrCycle, store.ErrRequestReused, store.ErrQuarantined,
		store.ErrCorrupt, store.ErrFormat, store.ErrDiskFull, spool.ErrDiskFull,
		wire.ErrOtherToken, wire.ErrUnsupported, fleet.ErrNotGuarded,
	} {
		got := wire.FromStatus(wire.ToStatus(fmt.Errorf("set s: %w, so there", want)))
		says := fmt.Sprintf("set s: %v, so there", want)
		if errors.Is(want, store.ErrDiskFull) || errors.Is(want, spool.ErrDiskFull) {
			says = "at the server: " + says // not at who asked
		}
		if !errors.Is(got, want) || got.Error() != says {
			t.Errorf("%v came as %v", want, got)
		}
	}
	if wire.ToStatus(nil) != nil || wire.FromStatus(nil) != nil {
		t.Error("nil is no error")
	}
}

// TestErrorsOfAnyServer reads what others than our handlers end a call with:
// gRPC itself, or a later version.
func TestErrorsOfAnyServer(t *testing.T) {
	later, err := status.New(codes.NotFound, "no such thing").WithDetails(
		&errdetails.ErrorInfo{Domain: "espalier", Reason: "NEW"}, &errdetails.ErrorInfo{Domain: "other", Reason: "NO_SET"})
	if err != nil {
		t.Fatal(err)
	}
	odd := errors.New("odd")
	for _, c := range []struct {
		err, want error
		says      string
	}{
		{status.Error(codes.Unavailable, "gone"), wire.ErrUnreachable, "gone"},
		{status.Error(codes.Canceled, "over"), context.Canceled, "over"},
		{status.Error(codes.DeadlineExceeded, "late"), context.DeadlineExceeded, "late"},
		{status.FromContextError(context.Canceled).Err(), context.Canceled, "the call was given up"},
		{wire.ToStatus(fmt.Errorf("check: %w", context.Canceled)), context.Canceled, "check: the call was given up"},
		{status.FromContextError(context.DeadlineExceeded).Err(), context.DeadlineExceeded, "it took too long"},
		{
			status.Error(codes.Unavailable, `connection error: desc = "transport: Error while dialing: dial tcp 127.0.0.1:1: connect: connection refused"`),
			wire.ErrUnreachable, "the server can't be reached: dial tcp 127.0.0.1:1: connect: connection refused",
		},
		{
			status.Error(codes.Unavailable, `connection error: desc = "error reading server preface: raw-read tcp 1->2: use of closed network connection"`),
			wire.ErrUnreachable, "the server can't be reached: something accepts connections there, but does not answer as a server",
		},
		{status.Error(codes.Unimplemented, "what?"), wire.ErrUnsupported, "of another version (what?)"},
		{wire.ToStatus(odd), nil, "odd (Internal)"},
		{later.Err(), nil, "no such thing (NotFound)"},
		{io.EOF, io.EOF, "EOF"},
		{odd, odd, "odd"},
	} {
		got := wire.FromStatus(c.err)
		if c.want != nil && !errors.Is(got, c.want) || !strings.HasSuffix(got.Error(), c.says) || errors.Is(got, store.ErrNotFound) {
			t.Errorf("%v came as %v, want %v that says %q", c.err, got, c.want, c.says)
		}
	}
}

// TestErrorsTravel sends the strangest text over a real connection's encoding.
func TestErrorsTravel(t *testing.T) {
	s, _ := status.FromError(wire.ToStatus(fmt.Errorf("file \xff\n\x00%%: %w", store.ErrDiskFull)))
	if got := wire.FromStatus(status.FromProto(over(t, s.Proto())).Err()); !errors.Is(got, store.ErrDiskFull) {
		t.Errorf("came as %v, want %v", got, store.ErrDiskFull)
	}
}

func TestServersAreNotUsers(t *testing.T) {
	badHead := func(change func(*espalierv1.Head)) *espalierv1.Head {
		m := wire.HeadToWire(head)
		change(m)
		return m
	}
	heads := map[string]*espalierv1.Head{
		"nothing":         nil,
		"a short epoch":   badHead(func(m *espalierv1.Head) { m.Position.Epoch = m.Position.Epoch[:15] }),
		"two epochs":      badHead(func(m *espalierv1.Head) { m.Position.Epoch = make([]byte, 32) }),
		"no number":       badHead(func(m *espalierv1.Head) { m.Position.Number = 0 }),
		"no root":         badHead(func(m *espalierv1.Head) { m.Root = nil }),
		"a long root":     badHead(func(m *espalierv1.Head) { m.Root = make([]byte, 33) }),
		"a long lineage":  badHead(func(m *espalierv1.Head) { m.Lineage = make([]*espalierv1.Position, desired.MaxLineage+1) }),
		"a short lineage": badHead(func(m *espalierv1.Head) { m.Lineage[0].Epoch = []byte{1} }),
	}
	for name, m := range heads {
		_, err := wire.HeadFromWire(m)
		_, polled := wire.PollAnswerFromWire(&espalierv1.PollResponse{Sets: []*espalierv1.SetAnswer{
			{Status: espalierv1.SetAnswer_STATUS_PULL, Head: m},
		}}, 1)
		_, begun := wire.PullResponseFromWire(&espalierv1.PullResponse{Step: &espalierv1.PullResponse_Begin{Begin: &espalierv1.PullBegin{Head: m}}})
		for _, err := range []error{err, polled, begun} {
			if !errors.Is(err, delta.ErrProtocol) || errors.Is(err, desired.ErrInvalid) {
				t.Errorf("a head with %s: %v, want %v", name, err, delta.ErrProtocol)
			}
		}
	}
	if _, err := wire.ObjectFromWire("k", nil); !errors.Is(err, delta.ErrProtocol) || errors.Is(err, desired.ErrInvalid) {
		t.Errorf("an object without an envelope: %v, want %v", err, delta.ErrProtocol)
	}
	for name, sets := range map[string][]*espalierv1.SetAnswer{
		"a delta to no number": {{Root: head.Root[:]}},
		"a delta to no root":   {{Number: 1}},
		"a set twice":          {{Index: 1, Status: 2}, {Index: 1, Status: 3}},
		"a set too many":       {{Index: 2, Status: 2}},
		"a negative index":     {{Index: 1 << 31, Status: 2}},
	} {
		if _, err := wire.PollAnswerFromWire(&espalierv1.PollResponse{Sets: sets}, 2); !errors.Is(err, delta.ErrProtocol) {
			t.Errorf("%s: %v, want %v", name, err, delta.ErrProtocol)
		}
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
	add(wire.PollToWire(wire.Poll{Host: "a", Held: []delta.Held{{Name: "a", Number: 2}}, Report: &desired.Report{Problems: []desired.Problem{{Text: "x"}}}}, true))
	add(wire.PollToWire(wire.Poll{Host: "a", Report: &desired.Report{Applying: convergence()}}, true))
	add(wire.PollAnswerToWire(wire.PollAnswer{Sets: []wire.Answer{{Status: wire.StatusPull, Head: head}}, List: &desired.List{Version: 1, Sets: []desired.Name{"a"}}}))
	add(wire.PollAnswerToWire(wire.PollAnswer{List: &desired.List{
		Version: 1, Sets: []desired.Name{"a"}, Orders: desired.Orders{Paused: true, Why: "x", Release: head.Root, Released: 1},
	}}))
	add(&espalierv1.SetOrdersRequest{Host: "a", Order: espalierv1.SetOrdersRequest_ORDER_RELEASE, Root: head.Root[:], Why: "x"})
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
			p, err := wire.PollFromWire(&poll, "")
			if err == nil && len(p.Held) > wire.MaxPolledSets {
				t.Errorf("a poll of %d sets", len(p.Held))
			}
			if err == nil && p.Report != nil && !reflect.DeepEqual(*p.Report, p.Report.Bounded()) {
				t.Errorf("a report beyond its bounds: %+v", p.Report)
			}
		}
		var answer espalierv1.PollResponse
		if proto.Unmarshal(b, &answer) == nil {
			if p, err := wire.PollAnswerFromWire(&answer, 3); err == nil && p.List != nil && p.List.Check() != nil {
				t.Errorf("a list of sets that can't be one: %+v", p.List)
			}
		}
		var orders espalierv1.SetOrdersRequest
		if proto.Unmarshal(b, &orders) == nil {
			if r, err := wire.OrdersFromWire(&orders); err == nil && r.Order.Check() != nil {
				t.Errorf("an order that can't be one: %+v", r)
			}
		}
		var terms espalierv1.CommitTerms
		if proto.Unmarshal(b, &terms) == nil {
			_, _ = wire.CommitFromWire(&terms)
			_, _ = wire.RestoreFromWire(&terms)
		}
	})
}
