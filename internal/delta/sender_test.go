package delta_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"espalier/internal/delta"
	"espalier/internal/desired"
)

// ask is a request of a peer that may be hostile. Where it is held, the sender
// gets the next one before it could answer.
type ask struct {
	delta.Request
	held bool
}

func opens(mode delta.Mode, change ...func(*delta.Open)) ask {
	o := &delta.Open{Set: "s", Mode: mode, Width: delta.ShortWidth, Seed: 1}
	for _, f := range change {
		f(o)
	}
	return ask{Request: delta.Request{Open: o}}
}

// narrows asks with pairs of (nodes skipped, nodes).
func narrows(pairs ...int) ask {
	return ask{Request: delta.Request{Narrow: append([]byte{delta.ShortWidth}, uvarints(pairs...)...)}}
}

// leaves asks with a flag and packed parts.
func leaves(flag int, parts ...any) ask {
	return leavesOf(delta.ShortWidth, flag, parts...)
}

func leavesOf(width, flag int, parts ...any) ask {
	return ask{Request: delta.Request{Leaves: append([]byte{byte(width<<1 | flag)}, join(parts...)...)}}
}

func held(a ask) ask { return ask{Request: a.Request, held: true} }

// interview puts asks to a new sender, and returns what it says, or the first
// error.
func interview(tb testing.TB, src delta.Source, asks ...ask) (said []delta.Response, err error) {
	tb.Helper()
	s := delta.NewSender(codec)
	for _, a := range asks {
		if err := s.Receive(a.Request); err != nil {
			return said, err
		}
		for !a.held && s.Pending() {
			resp, err := s.Next(src)
			if err != nil {
				return said, err
			}
			if said = append(said, resp); len(said) > 10_000 {
				tb.Fatal("a sender that never ends")
			}
		}
	}
	return said, nil
}

// TestSenderRefuses puts requests that break the protocol: all but the last are
// as they should be.
func TestSenderRefuses(t *testing.T) {
	set := numbered(2000, 3)
	two, one := set.width(2), set.width(1)
	if two < 3 || one < 10 {
		t.Fatalf("levels of %d and %d nodes are too few for this test", two, one)
	}
	long := []byte(strings.Repeat("k", desired.MaxKeyBytes+1))
	open, all := opens(delta.Descent), narrows(0, two)
	digests := func(n int) []byte { return join(n, make([]byte, n*delta.ShortWidth)) }

	tests := map[string][]ask{
		"nothing":                   {{}},
		"narrow before open":        {narrows(0, 1)},
		"leaves before open":        {leaves(1)},
		"empty request":             {open, {}},
		"open twice":                {open, open},
		"open twice, in a full":     {opens(delta.Full), open},
		"mode 0":                    {opens(0)},
		"mode unknown":              {opens(5)},
		"mode negative":             {opens(-1)},
		"width 0":                   {opens(delta.Descent, func(o *delta.Open) { o.Width = 0 })},
		"width between":             {opens(delta.Descent, func(o *delta.Open) { o.Width = delta.MaxShortWidth + 1 })},
		"width beyond a digest":     {opens(delta.Descent, func(o *delta.Open) { o.Width = 33 })},
		"width too short":           {opens(delta.Descent, func(o *delta.Open) { o.Width = delta.ShortWidth - 1 })},
		"width negative":            {opens(delta.Descent, func(o *delta.Open) { o.Width = -4 })},
		"after too long":            {opens(delta.Full, func(o *delta.Open) { o.After = long })},
		"from too long":             {opens(delta.Compare, func(o *delta.Open) { o.From = long })},
		"until too long":            {opens(delta.Compare, func(o *delta.Open) { o.Until = long })},
		"narrow a full":             {opens(delta.Full), narrows(0, 1)},
		"narrow a delta":            {opens(delta.Since, func(o *delta.Open) { o.Base = set.head.Revision }), narrows(0, 1)},
		"leaves of a full":          {opens(delta.Full), leaves(1)},
		"narrow before the listing": {held(open), narrows(0, 1)},
		"leaves before the listing": {held(open), leaves(1)},
		"narrow during the listing": {open, held(all), narrows(0, 1)},
		"leaves during the listing": {open, held(all), leaves(1)},

		"narrow nothing":                 {open, narrows()},
		"narrow without a width":         {open, {Request: delta.Request{Narrow: []byte{}}}},
		"narrow by width 0":              {open, {Request: delta.Request{Narrow: []byte{0, 0, 1}}}},
		"narrow by a width between":      {open, {Request: delta.Request{Narrow: []byte{31, 0, 1}}}},
		"narrow no nodes":                {open, narrows(0, 0)},
		"narrow no nodes, after some":    {open, narrows(0, 1, 0, 0)},
		"narrow cut short":               {open, narrows(0)},
		"narrow cut in a number":         {open, {Request: delta.Request{Narrow: []byte{delta.ShortWidth, 0, 0x80}}}},
		"narrow a number that overflows": {open, {Request: delta.Request{Narrow: []byte("\x03" + strings.Repeat("\xff", 11))}}},
		"narrow beyond the end":          {open, narrows(0, two+1)},
		"narrow beyond, by a gap":        {open, narrows(two, 1)},
		"narrow beyond, by a huge gap":   {open, narrows(delta.MaxNodes, 1)},
		"narrow beyond, by a wild gap":   {open, narrows(1<<62, 1)},
		"narrow beyond, in the second":   {open, narrows(0, two, 0, 1)},
		"narrow the lowest level":        {open, all, narrows(0, 1)},
		"narrow what is not there":       {open, narrows(0, 1), narrows(0, one)},
		"narrow after leaves":            {open, all, leaves(0, 0, 1, 0), narrows(0, 1)},
		"leaves in two runs":             {open, narrows(0, 1, 1, 1), leaves(0, 0, one, 0)},

		"leaves without a flag":          {open, all, {Request: delta.Request{Leaves: []byte{}}}},
		"leaves of width 0":              {open, all, leavesOf(0, 1)},
		"leaves of a width between":      {open, all, leavesOf(9, 1)},
		"leaves of a width too large":    {open, all, leavesOf(33, 1)},
		"leaves that say nothing":        {open, all, leaves(0)},
		"leaves above level 1":           {open, leaves(1, 0, 1, 0)},
		"nothing above level 1":          {open, leaves(0)},
		"leaves after the last":          {open, all, leaves(1), leaves(1)},
		"leaves after the last, at once": {open, all, held(leaves(1, 0, 1, 0)), leaves(0, 0, 1, 0)},
		"leaves of no nodes":             {open, all, leaves(0, 0, 0, 0)},
		"leaves beyond the end":          {open, all, leaves(0, 0, one+1, 0)},
		"leaves beyond, by a gap":        {open, all, leaves(0, one<<1, 1, 0)},
		"leaves again":                   {open, all, leaves(0, 0, one, 0), leaves(0, 0, one, 0)},
		"leaves cut short":               {open, all, leaves(0, 0)},
		"leaves without digests":         {open, all, leaves(0, 0, 1)},
		"fewer digests than said":        {open, all, leaves(0, 0, 1, 2, "1234567")},
		"more digests than allowed":      {open, all, leaves(0, 0, one, digests(delta.PartDigests+1))},
		"bytes left over":                {open, all, leaves(1, 0, 1, digests(1), "\x00")},
		"part cut at no key":             {open, all, leaves(0, 1, one, 0, 0)},
		"part cut at a long key":         {open, all, leaves(0, 1, one, len(long), long, 0)},
		"part cut, key cut short":        {open, all, leaves(0, 1, one, 5, "svc")},
		"part cut, never continued":      {open, all, leaves(1, 1, one, 3, "svc", 0)},
		"part cut, then others":          {open, all, leaves(0, 1, 2, 3, "svc", 0, 1<<1, 1, 0)},
		"part cut, then more":            {open, all, leaves(0, 1, 2, 3, "svc", 0, 0, 3, 0)},
		"part cut, then fewer":           {open, all, leaves(0, 1, 2, 3, "svc", 0, 0, 1, 0)},
		"part cut, then in the next":     {open, all, leaves(0, 1, 2, 3, "svc", 0), leaves(1, 0, 3, 0)},
		"part cut twice at a key":        {open, all, leaves(0, 1, one, 3, "svc", 0, 1, one, 3, "svc", 0)},
		"part cut backwards":             {open, all, leaves(0, 1, one, 3, "svc", 0, 1, one, 3, "sva", 0)},
	}
	for name, asks := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := interview(t, set, asks[:len(asks)-1]...); err != nil {
				t.Fatalf("before the last request: %v", err)
			}
			if _, err := interview(t, set, asks...); !errors.Is(err, delta.ErrProtocol) {
				t.Errorf("error %v, want ErrProtocol", err)
			}
		})
	}
}

// TestSenderBoundsWhatWaits floods a sender that never gets to answer, with
// parts of most digests, of none, and of long keys.
func TestSenderBoundsWhatWaits(t *testing.T) {
	set := numbered(2000, 3)
	for n, format := range map[int]string{0: "a%09d", 1: "a%01000d", delta.PartDigests: "a%09d"} {
		s := delta.NewSender(codec)
		for _, a := range []ask{opens(delta.Descent), narrows(0, set.width(2))} {
			if err := s.Receive(a.Request); err != nil {
				t.Fatal(err)
			}
			for s.Pending() {
				if _, err := s.Next(set); err != nil {
					t.Fatal(err)
				}
			}
		}
		digests := make([]byte, n*delta.ShortWidth)
		sent, parts, err := 0, 0, error(nil)
		for err == nil && sent < 64<<20 {
			msg := []byte{delta.ShortWidth << 1}
			for len(msg) < 64<<10 {
				key := fmt.Sprintf(format, parts)
				msg = append(msg, join(1, set.width(1), len(key), key, n, digests)...)
				parts++
			}
			sent += len(msg)
			err = s.Receive(delta.Request{Leaves: msg})
		}
		if !errors.Is(err, delta.ErrProtocol) || sent > 8<<20 {
			t.Errorf("parts of %d digests: after %d bytes: %v, want ErrProtocol soon", n, sent, err)
		}
	}
}

// TestSenderReadsOnce asks for the same nodes again and again, as far as cutting
// them allows: it must not make the sender read more than there is.
func TestSenderReadsOnce(t *testing.T) {
	set := &counting{memory: numbered(2000, 3)}
	parts := []any{}
	for i := range 5000 {
		key := fmt.Sprintf("%s%04d", []string{"a", "svc/000/", "svc/010/", "zzz"}[i/1250], i)
		parts = append(parts, 1, set.width(1)-3, len(key), key, 0)
	}
	parts = append(parts, 0, set.width(1)-3, 0, 0, 3, 0)
	said, err := interview(t, set, opens(delta.Descent), narrows(0, set.width(2)), leaves(1, parts...))
	if err != nil {
		t.Fatal(err)
	}
	changes := 0
	for _, resp := range said {
		if resp.Batch != nil && len(resp.Batch.Frame) > 0 {
			c, err := codec.DecodeFrame(resp.Batch.Frame)
			if err != nil {
				t.Fatal(err)
			}
			changes += len(c)
		}
	}
	if changes != 2000 || set.reads > 2000+2*len(said) {
		t.Errorf("%d objects sent and %d looked at in %d answers, of a set of 2000", changes, set.reads, len(said))
	}
}

// TestSenderAnswersInBounds looks at the size of all that a sender says.
func TestSenderAnswersInBounds(t *testing.T) {
	set := numbered(60_000, 3)
	set.commit(map[string]desired.Envelope{
		numberedKey(5):      largest(t, numberedKey(5)).Envelope,
		numberedKey(30_000): largest(t, numberedKey(30_000)).Envelope,
	})
	nodes, part := set.width(1), []byte{}
	hold := func(from, until int, cut string) {
		part = append(part, join(1, nodes, len(cut), cut, until-from)...)
		var h desired.Hasher
		for _, k := range set.keys[from:until] {
			d := delta.ShortDigest(1, h.Sum([]byte(k), set.objects[k]))
			part = append(part, d[:]...)
		}
	}
	const n = delta.PartDigests
	for i := 0; i+n < len(set.keys); i += n { // all but the last are held whole
		hold(i, i+n, set.keys[i+n])
	}
	part = append(part, join(0, nodes, 0)...)
	tests := map[string][]ask{
		"full": {opens(delta.Full)},
		"delta": {opens(delta.Since, func(o *delta.Open) {
			o.Base.Epoch, o.Base.Number, o.Base.Root = set.head.Epoch, 1, set.roots[1]
		})},
		"descent from nothing":     {opens(delta.Descent), narrows(0, set.width(2)), leaves(1, 0, nodes, 0)},
		"descent from almost all":  {opens(delta.Descent), narrows(0, set.width(2)), leaves(1, part)},
		"comparison with nothing":  {opens(delta.Compare), narrows(0, set.width(2)), leaves(1, 0, nodes, 0)},
		"listing of whole digests": {opens(delta.Descent, func(o *delta.Open) { o.Width = 32 }), narrows(0, set.width(2)), leaves(1)},
	}
	for name, asks := range tests {
		said, err := interview(t, set, asks...)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for i, resp := range said {
			switch {
			case (i == 0) != (resp.Begin != nil), (i == len(said)-1) != (resp.End != nil):
				t.Errorf("%s: response %d of %d is %+v", name, i, len(said), resp)
			case resp.Digests != nil && (len(resp.Digests.Data) == 0 || len(resp.Digests.Data) > delta.FrameBytes+64):
				t.Errorf("%s: %d bytes of digests", name, len(resp.Digests.Data))
			case resp.Batch != nil:
				if n := len(resp.Batch.Frame) + len(resp.Batch.Parts); n == 0 || n > delta.MaxMessageBytes-1024 {
					t.Errorf("%s: a batch of %d and %d bytes", name, len(resp.Batch.Frame), len(resp.Batch.Parts))
				}
			}
		}
	}
}

// TestSenderBeginsSmall: what a connection has carried that is cut soon counts, so
// a pull begins with small frames, each at most twice the one before.
func TestSenderBeginsSmall(t *testing.T) {
	said, err := interview(t, large(10_000), opens(delta.Full))
	if err != nil {
		t.Fatal(err)
	}
	const margin = 1 << 10
	most, frames := 16<<10, 0
	for _, r := range said {
		if r.Batch == nil {
			continue
		}
		if frames++; len(r.Batch.Frame) > most+margin {
			t.Errorf("frame %d has %d bytes, want at most %d", frames, len(r.Batch.Frame), most+margin)
		}
		most = min(2*most, delta.FrameBytes)
	}
	if frames < 8 || frames > 14 {
		t.Errorf("1.2 MB came in %d frames, which don't grow to %d bytes", frames, delta.FrameBytes)
	}
}

func TestSenderDoesNotChangeOpen(t *testing.T) {
	set := numbered(10, 1)
	open := opens(delta.Since)
	said, err := interview(t, set, open)
	if err != nil || said[0].Begin.Mode != delta.Descent || open.Open.Mode != delta.Since {
		t.Errorf("a delta from nowhere: %+v, %v; the request is now %+v", said, err, open.Open)
	}
}

// FuzzSender puts requests to a sender: each is a byte for its kind, a byte for
// its length, and its content. Whatever they are, each call returns, an error is
// about the protocol, and what is said stays within what the set holds.
func FuzzSender(f *testing.F) {
	set := numbered(2000, 3)
	two, one := set.width(2), set.width(1)
	script := func(mode delta.Mode, asks ...ask) []byte {
		b := []byte{byte(mode)}
		for _, a := range asks {
			kind, content := byte(0), a.Narrow
			if a.Leaves != nil {
				kind, content = 1, a.Leaves
			}
			if a.held {
				kind |= 2
			}
			b = append(append(b, kind, byte(len(content))), content...)
		}
		return b
	}
	f.Add(script(delta.Full))
	f.Add(script(delta.Since))
	f.Add(script(delta.Descent, narrows(0, two), leaves(1, 0, one, 0)))
	f.Add(script(delta.Descent, narrows(1, 1, 1, 1), leaves(0, 2, 1, 1, "abc"), leaves(1)))
	f.Add(script(delta.Descent, narrows(0, two), leaves(0, 1, one, 3, "svc", 0, 1, one, 7, "svc/004", 1, "abc"), leaves(1, 0, one, 0)))
	f.Add(script(delta.Compare, held(narrows(0, two)), leaves(0, 0, 1, 0), leaves(1, 2, 3, 0)))
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) == 0 {
			return
		}
		asks := []ask{opens(delta.Mode(script[0]))}
		for script = script[1:]; len(script) > 1; {
			n := min(int(script[1]), len(script)-2)
			content := script[2 : 2+n : 2+n]
			a := ask{Request: delta.Request{Narrow: content}, held: script[0]&2 != 0}
			if script[0]&1 != 0 {
				a.Request = delta.Request{Leaves: content}
			}
			asks, script = append(asks, a), script[2+n:]
		}
		src := &counting{memory: set}
		said, err := interview(t, src, asks...)
		if err != nil && !errors.Is(err, delta.ErrProtocol) {
			t.Errorf("error %v, want ErrProtocol", err)
		}
		if src.reads > 2000+2*len(said)+len(asks) {
			t.Errorf("%d objects looked at in %d answers, of a set of 2000", src.reads, len(said))
		}
	})
}
