package desired_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
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
	for name, l := range map[string]desired.List{
		"no sets":        {Version: 1},
		"too many sets":  {Version: 1, Sets: many(desired.MaxListSets + 1)},
		"too many left":  {Version: 1, Sets: []desired.Name{"a"}, Left: many(desired.MaxListLeft + 1)},
		"a set twice":    {Version: 1, Sets: []desired.Name{"a", "b", "a"}},
		"a set in both":  {Version: 1, Sets: []desired.Name{"a"}, Left: []desired.Name{"a"}},
		"an odd name":    {Version: 1, Sets: []desired.Name{"../a"}},
		"an odd version": {Version: desired.MaxNumber + 1, Sets: []desired.Name{"a"}},
	} {
		if err := l.Check(); !errors.Is(err, desired.ErrInvalid) {
			t.Errorf("a list with %s: %v, want %v", name, err, desired.ErrInvalid)
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
