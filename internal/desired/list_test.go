package desired_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"espalier/internal/desired"
)

func TestListNext(t *testing.T) {
	own := desired.OwnList("web-01")
	if err := own.Check(); err != nil || own.Version != 0 {
		t.Errorf("the list that nobody made is %+v: %v", own, err)
	}
	one := own.Next(0, []desired.Name{"base", "web-01"})
	two := one.Next(0, []desired.Name{"web"})
	three := two.Next(9, []desired.Name{"base", "web"})
	for _, c := range []struct{ got, want desired.List }{
		{one, desired.List{Version: 1, Sets: []desired.Name{"base", "web-01"}}},
		{two, desired.List{Version: 2, Sets: []desired.Name{"web"}, Left: []desired.Name{"base", "web-01"}}},
		{three, desired.List{Version: 10, Sets: []desired.Name{"base", "web"}, Left: []desired.Name{"web-01"}}},
	} {
		if !reflect.DeepEqual(c.got, c.want) {
			t.Errorf("list %+v, want %+v", c.got, c.want)
		}
	}
}

// TestListHistory: whatever is done to a list, it stays valid, its version grows,
// and each set that it loses is named, as long as there are not too many.
func TestListHistory(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	list := desired.OwnList("s0")
	for range 2000 {
		sets := make([]desired.Name, 0, desired.MaxListSets)
		for _, i := range r.Perm(600)[:1+r.IntN(desired.MaxListSets)] {
			sets = append(sets, desired.Name(fmt.Sprintf("s%d", i)))
		}
		next := list.Next(0, sets)
		if err := next.Check(); err != nil || next.Version != list.Version+1 {
			t.Fatalf("seed %d: list %+v after %+v: %v", seed, next, list, err)
		}
		for _, name := range list.Sets {
			if !slices.Contains(next.Sets, name) && !slices.Contains(next.Left, name) {
				t.Fatalf("seed %d: set %s is neither on the list nor left it", seed, name)
			}
		}
		decoded, err := desired.DecodeList(next.Encode())
		if err != nil || !reflect.DeepEqual(decoded, next) || decoded.Sum() != next.Sum() || next.Sum() == list.Sum() {
			t.Fatalf("seed %d: list %+v decodes as %+v, %v", seed, next, decoded, err)
		}
		list = next
	}
}

func TestListCheck(t *testing.T) {
	many := func(n int) (names []desired.Name) {
		for i := range n {
			names = append(names, desired.Name(fmt.Sprint(i)))
		}
		return names
	}
	ordered := func(o desired.Orders) desired.List {
		return desired.List{Version: 2, Sets: []desired.Name{"a"}, Orders: o}
	}
	for name, l := range map[string]desired.List{
		"no sets":                    {Version: 1},
		"too many sets":              {Version: 1, Sets: many(desired.MaxListSets + 1)},
		"too many left":              {Version: 1, Sets: []desired.Name{"a"}, Left: many(desired.MaxListLeft + 1)},
		"a set twice":                {Version: 1, Sets: []desired.Name{"a", "b", "a"}},
		"a set in both":              {Version: 1, Sets: []desired.Name{"a"}, Left: []desired.Name{"a"}},
		"an odd name":                {Version: 1, Sets: []desired.Name{"../a"}},
		"an odd version":             {Version: desired.MaxNumber + 1, Sets: []desired.Name{"a"}},
		"a long reason":              ordered(desired.Orders{Paused: true, Why: strings.Repeat("x", desired.MaxWhyBytes+1)}),
		"an odd reason":              ordered(desired.Orders{Paused: true, Why: "\xff"}),
		"a reason alone":             ordered(desired.Orders{Why: "x"}),
		"a release of no version":    ordered(desired.Orders{Release: desired.Digest{1}}),
		"a release of no root":       ordered(desired.Orders{Released: 1}),
		"a release of times to come": ordered(desired.Orders{Release: desired.Digest{1}, Released: 3}),
	} {
		if err := l.Check(); !errors.Is(err, desired.ErrInvalid) {
			t.Errorf("a list with %s: %v, want %v", name, err, desired.ErrInvalid)
		}
	}
}

// TestListOrders: orders stay whatever becomes of the sets, and sets whatever is
// ordered.
func TestListOrders(t *testing.T) {
	root := desired.Digest{7}
	own := desired.OwnList("web-01")
	paused := own.Pause(0, "the disk is being replaced")
	both := paused.ReleaseRoot(0, root)
	listed := both.Next(8, []desired.Name{"base"})
	resumed := listed.Resume(0)
	for _, c := range []struct{ got, want desired.List }{
		{paused, desired.List{Version: 1, Sets: own.Sets, Orders: desired.Orders{Paused: true, Why: "the disk is being replaced"}}},
		{both, desired.List{Version: 2, Sets: own.Sets, Orders: desired.Orders{Paused: true, Why: "the disk is being replaced", Release: root, Released: 2}}},
		{listed, desired.List{
			Version: 9, Sets: []desired.Name{"base"}, Left: own.Sets,
			Orders: desired.Orders{Paused: true, Why: "the disk is being replaced", Release: root, Released: 2},
		}},
		{resumed, desired.List{Version: 10, Sets: []desired.Name{"base"}, Left: own.Sets, Orders: desired.Orders{Release: root, Released: 2}}},
		{resumed.ReleaseRoot(20, root), desired.List{Version: 21, Sets: []desired.Name{"base"}, Left: own.Sets, Orders: desired.Orders{Release: root, Released: 21}}},
	} {
		if !reflect.DeepEqual(c.got, c.want) {
			t.Errorf("list %+v, want %+v", c.got, c.want)
		}
		if got, err := desired.DecodeList(c.got.Encode()); err != nil || !reflect.DeepEqual(got, c.want) || got.Sum() != c.want.Sum() {
			t.Errorf("list %+v decodes as %+v, %v", c.want, got, err)
		}
	}
	if paused.Sum() == (desired.List{Version: 1, Sets: own.Sets}).Sum() {
		t.Error("two sides can't tell a list with orders from one without")
	}
}

// TestListEncoding fixes what lists are as bytes: they are on disks, and both ends
// of the wire take their sum.
func TestListEncoding(t *testing.T) {
	plain := desired.List{Version: 300, Sets: []desired.Name{"a", "bc"}, Left: []desired.Name{"d"}}
	const was = "\xac\x02\x02\x01a\x02bc\x01\x01d"
	ordered := plain
	ordered.Orders = desired.Orders{Paused: true, Why: "no", Release: desired.Digest{31: 9}, Released: 299}
	root := string(ordered.Release[:])
	for want, l := range map[string]desired.List{
		was:                               plain,
		was + "\x03\x02no\xab\x02" + root: ordered,
		was + "\x01\x00":                  {Version: 300, Sets: plain.Sets, Left: plain.Left, Orders: desired.Orders{Paused: true}},
		was + "\x02\xab\x02" + root:       {Version: 300, Sets: plain.Sets, Left: plain.Left, Orders: desired.Orders{Release: ordered.Release, Released: 299}},
		"\x00\x01\x01a\x00":               desired.OwnList("a"),
	} {
		if got := string(l.Encode()); got != want {
			t.Errorf("list %+v is %x, want %x", l, got, want)
		}
		if got, err := desired.DecodeList([]byte(want)); err != nil || !reflect.DeepEqual(got, l) {
			t.Errorf("%x is list %+v, %v, want %+v", want, got, err, l)
		}
	}
	if got, want := plain.Sum(), uint64(0x88590d319ce0ab86); got != want {
		t.Errorf("the sum of a list without orders is %#x, want %#x as ever", got, want)
	}
	for name, b := range map[string]string{
		"orders of none":           was + "\x00",
		"orders of another kind":   was + "\x04",
		"a reason cut short":       was + "\x01\x05no",
		"a release without a root": was + "\x02\x05",
		"a release of no root":     was + "\x02\x00" + string(make([]byte, 32)),
		"bytes left over":          was + "\x01\x00\x00",
	} {
		if l, err := desired.DecodeList([]byte(b)); !errors.Is(err, desired.ErrInvalid) {
			t.Errorf("%s: %+v, %v, want %v", name, l, err, desired.ErrInvalid)
		}
	}
}

func TestReportBounded(t *testing.T) {
	long := make([]byte, desired.MaxProblemBytes)
	for i := range long {
		long[i] = 'x'
	}
	r := desired.Report{Agent: "a\xff", Problems: slices.Repeat([]desired.Problem{{Text: string(long[1:]) + "ü"}}, desired.MaxProblems+3), More: 1}.Bounded()
	if len(r.Problems) != desired.MaxProblems || r.More != 4 || r.Problems[0].Text != string(long[1:]) || r.Agent != "a\ufffd" {
		t.Errorf("bounded: %d problems and %d more, the first of %d bytes, agent %q", len(r.Problems), r.More, len(r.Problems[0].Text), r.Agent)
	}
	if !r.Equal(r.Bounded()) {
		t.Error("what is bounded changes by being bounded")
	}
}

func FuzzDecodeList(f *testing.F) {
	f.Add(desired.OwnList("a").Next(3, []desired.Name{"b", "c"}).Encode())
	f.Add(desired.OwnList("a").Pause(0, "why").ReleaseRoot(0, desired.Digest{1}).Encode())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := desired.DecodeList(b)
		if err != nil {
			return
		}
		if err := l.Check(); err != nil {
			t.Errorf("DecodeList accepts %+v: %v", l, err)
		}
		again, err := desired.DecodeList(l.Encode())
		if err != nil || !reflect.DeepEqual(again, l) {
			t.Errorf("list %+v encodes to %+v, %v", l, again, err)
		}
	})
}
