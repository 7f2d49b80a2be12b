package delta_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"testing"

	"espalier/internal/delta"
	"espalier/internal/desired"
)

// seedOne draws the same seed each time, as no receiver should.
func seedOne() uint64 { return 1 }

// rival returns a set that differs from s here and there, without its history.
func rival(s *memory) *memory {
	changes := map[string]desired.Envelope{}
	for i, key := range s.keys {
		switch i % 97 {
		case 0:
			changes[key] = envelope("of the rival")
		case 20, 21:
			changes[key] = nil
		case 40:
			changes[key+"x"] = envelope("new")
		}
	}
	return amnesiac(s, changes)
}

func batch(frame []byte, parts ...int) delta.Response {
	return delta.Response{Batch: &delta.Batch{Frame: frame, Parts: uvarints(parts...)}}
}

func digests(last bool, data ...any) delta.Response {
	return delta.Response{Digests: &delta.Digests{Data: join(data...), Last: last}}
}

// frameOf returns a frame of changes, in an order and of a kind that may be wrong.
func frameOf(changes ...desired.Change) []byte {
	w := delta.NewFrameWriter(codec)
	for _, c := range changes {
		must(w.Add(c))
	}
	return w.Frame()
}

func upsert(key string) desired.Change {
	return desired.Change{Key: []byte(key), Envelope: envelope("v")}
}

func deletion(key string) desired.Change { return desired.Change{Key: []byte(key)} }

// TestReceiverRefuses lets a sender break the protocol: what it says is as it
// should be, but for the n-th of its responses that are of the kind of kind,
// whose place twist takes.
func TestReceiverRefuses(t *testing.T) {
	source := numbered(2000, 3)
	two := source.width(2)
	begin := func(change func(b *delta.Begin)) func(delta.Response) []delta.Response {
		return func(r delta.Response) []delta.Response {
			b := *r.Begin
			change(&b)
			return []delta.Response{{Begin: &b}}
		}
	}
	instead := func(r ...delta.Response) func(delta.Response) []delta.Response {
		return func(delta.Response) []delta.Response { return r }
	}
	after := func(more ...delta.Response) func(delta.Response) []delta.Response {
		return func(r delta.Response) []delta.Response { return append([]delta.Response{r}, more...) }
	}
	end := func(change func(h *desired.Head)) func(delta.Response) []delta.Response {
		return func(delta.Response) []delta.Response {
			e := delta.End{Head: source.head}
			change(&e.Head)
			return []delta.Response{{End: &e}}
		}
	}
	reframe := func(change func([]desired.Change) []desired.Change) func(delta.Response) []delta.Response {
		return func(r delta.Response) []delta.Response {
			changes, err := codec.DecodeFrame(r.Batch.Frame)
			must(err)
			return []delta.Response{{Batch: &delta.Batch{Frame: frameOf(change(changes)...), Parts: r.Batch.Parts}}}
		}
	}
	const (
		onBegin = iota
		onDigests
		onBatch
		onEnd
	)
	theEnd := delta.Response{End: &delta.End{Head: source.head}}
	row := make([]byte, delta.ShortWidth)

	tests := map[string]struct {
		mode  delta.Mode
		kind  int
		n     int
		twist func(delta.Response) []delta.Response
	}{
		"nothing":               {delta.Full, onBegin, 0, instead(delta.Response{})},
		"digests first":         {delta.Descent, onBegin, 0, instead(digests(false, 2, row))},
		"batch first":           {delta.Full, onBegin, 0, instead(batch(frameOf(upsert("a"))))},
		"end first":             {delta.Full, onBegin, 0, instead(theEnd)},
		"begin twice":           {delta.Full, onBegin, 0, func(r delta.Response) []delta.Response { return []delta.Response{r, r} }},
		"nothing, later":        {delta.Full, onBatch, 0, instead(delta.Response{})},
		"full begun as delta":   {delta.Full, onBegin, 0, begin(func(b *delta.Begin) { b.Mode = delta.Since })},
		"delta begun as full":   {delta.Since, onBegin, 0, begin(func(b *delta.Begin) { b.Mode = delta.Full })},
		"descent begun as full": {delta.Descent, onBegin, 0, begin(func(b *delta.Begin) { b.Mode = delta.Full })},
		"compare begun as pull": {delta.Compare, onBegin, 0, begin(func(b *delta.Begin) { b.Mode = delta.Descent })},
		"mode unknown":          {delta.Full, onBegin, 0, begin(func(b *delta.Begin) { b.Mode = 9 })},
		"height negative":       {delta.Descent, onBegin, 0, begin(func(b *delta.Begin) { b.Height = -1 })},
		"height beyond bound":   {delta.Descent, onBegin, 0, begin(func(b *delta.Begin) { b.Height = 15 })},
		"head of no number":     {delta.Full, onBegin, 0, begin(func(b *delta.Begin) { b.Head.Number = 0 })},
		"compared to another":   {delta.Compare, onBegin, 0, begin(func(b *delta.Begin) { b.Salt++ })},

		"digests in a full":     {delta.Full, onBatch, 0, instead(digests(true, 2, row))},
		"batch of nothing":      {delta.Full, onBatch, 0, instead(batch(nil))},
		"frame of nothing":      {delta.Full, onBatch, 0, instead(batch(frameOf()))},
		"frame malformed":       {delta.Full, onBatch, 0, instead(batch([]byte{9}))},
		"parts in a full":       {delta.Full, onBatch, 0, instead(batch(frameOf(upsert("a")), 1, 0))},
		"deletion in a full":    {delta.Full, onBatch, 0, instead(batch(frameOf(upsert("a"), deletion("b"))))},
		"full that repeats":     {delta.Full, onBatch, 0, func(r delta.Response) []delta.Response { return []delta.Response{r, r} }},
		"full that goes back":   {delta.Full, onBatch, 0, after(batch(frameOf(upsert("a"))))},
		"delta that repeats":    {delta.Since, onBatch, 0, func(r delta.Response) []delta.Response { return []delta.Response{r, r} }},
		"delta that goes back":  {delta.Since, onBatch, 0, after(batch(frameOf(deletion("a"))))},
		"delta beyond bound":    {delta.Since, onBatch, 0, instead(deletions(delta.MaxTouched + 1)...)},
		"parts in a delta":      {delta.Since, onBatch, 0, instead(batch(frameOf(upsert("a")), 1, 0))},
		"delta of nothing":      {delta.Since, onBatch, 0, instead(batch(frameOf()))},
		"head that goes back":   {delta.Full, onEnd, 0, end(func(h *desired.Head) { h.Number-- })},
		"head of another root":  {delta.Full, onEnd, 0, end(func(h *desired.Head) { h.Root[0]++ })},
		"compared, and back":    {delta.Compare, onEnd, 0, end(func(h *desired.Head) { h.Number-- })},
		"end after the listing": {delta.Descent, onDigests, 1, after(theEnd)},

		"end before the listing":   {delta.Descent, onDigests, 0, instead(theEnd)},
		"end in the listing":       {delta.Descent, onDigests, 1, instead(theEnd)},
		"end before the objects":   {delta.Descent, onBatch, 0, instead(theEnd)},
		"objects before asked for": {delta.Descent, onDigests, 0, instead(batch(frameOf(upsert("a"))))},
		"parts before asked for":   {delta.Descent, onDigests, 0, instead(batch(nil, 0, 0))},
		"digests after the last":   {delta.Descent, onBatch, 0, instead(digests(true, 2, row))},
		"digests of nothing":       {delta.Descent, onDigests, 0, instead(digests(true))},
		"digests of nothing yet":   {delta.Descent, onDigests, 0, instead(digests(false))},
		"segment of nothing":       {delta.Descent, onDigests, 0, instead(digests(true, 0))},
		"segment of nothing yet":   {delta.Descent, onDigests, 0, instead(digests(false, 1))},
		"segment without end":      {delta.Descent, onDigests, 0, instead(digests(true, 1<<1|1, row))},
		"segment cut short":        {delta.Descent, onDigests, 0, instead(digests(true, 2<<1, row))},
		"segment's header cut":     {delta.Descent, onDigests, 0, instead(digests(true, []byte{0x80}))},
		"segment beyond bound":     {delta.Descent, onDigests, 0, instead(digests(true, (delta.MaxNodes+1)<<1, row))},
		"bytes left over":          {delta.Descent, onDigests, 0, after(digests(true, 1<<1, row, "\x01"))},
		"a run too many":           {delta.Descent, onDigests, 0, instead(digests(true, 1<<1, row, 1<<1, row))},
		"a level, then more of it": {delta.Descent, onDigests, 0, func(r delta.Response) []delta.Response { return []delta.Response{r, r, r, r} }},
		"digests without end":      {delta.Descent, onDigests, 0, instead(repeat(digests(false, 1<<13|1, bytes.Repeat(row, 1<<12)), 300)...)},
		"digests of another width": {delta.Descent, onDigests, 0, instead(digests(true, two<<1, make([]byte, two*32)))},

		"batch of nothing in a descent": {delta.Descent, onBatch, 0, instead(batch(nil))},
		"frame of nothing in a descent": {delta.Descent, onBatch, 0, instead(batch(frameOf()))},
		"frame malformed in a descent":  {delta.Descent, onBatch, 0, instead(batch([]byte{9}, 0, 0))},
		"deletion in a descent":         {delta.Descent, onBatch, 0, instead(batch(frameOf(deletion("a"))))},
		"objects that repeat":           {delta.Descent, onBatch, 0, instead(batch(frameOf(upsert("a"))), batch(frameOf(upsert("a"))))},
		"objects that go back":          {delta.Descent, onBatch, 0, instead(batch(frameOf(upsert("b"))), batch(frameOf(upsert("a"))))},
		"objects too few":               {delta.Descent, onBatch, 0, instead(batch(frameOf(upsert("a")), 2, 0))},
		"objects after the last part":   {delta.Descent, onBatch, 0, after(batch(frameOf(upsert("z"))))},
		"parts too many":                {delta.Descent, onBatch, 0, after(batch(nil, 0, 0))},
		"parts cut short":               {delta.Descent, onBatch, 0, instead(batch(nil, 0))},
		"gone beyond what was named":    {delta.Descent, onBatch, 0, instead(batch(nil, 0, 1, delta.PartDigests-1))},
		"gone beyond bound":             {delta.Descent, onBatch, 0, instead(batch(nil, 0, 1, delta.PartDigests+1))},
		"gone more than was named":      {delta.Descent, onBatch, 0, instead(batch(nil, 0, delta.PartDigests))},
		"gone, cut short":               {delta.Descent, onBatch, 0, instead(batch(nil, 0, 2, 0))},
		"compared by values": {delta.Compare, onBatch, 0, reframe(func(all []desired.Change) []desired.Change {
			all[0] = upsert(string(all[0].Key))
			return all
		})},
		"compared by heads": {delta.Compare, onBatch, 0, reframe(func(all []desired.Change) []desired.Change {
			all[0].Envelope = mustEncode(t, desired.Object{Value: make([]byte, 32), Attributes: map[string]string{"a": "b"}})
			return all
		})},
		"compared, and gone":       {delta.Compare, onBatch, 0, instead(batch(nil, 0, 1, 0))},
		"compared, and a deletion": {delta.Compare, onBatch, 0, instead(batch(frameOf(deletion("a"))))},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f, r, src := receiverOf(t, source, tt.mode)
			n, twisted := 0, false
			l := &link{source: src, twist: func(resp delta.Response) []delta.Response {
				kinds := []bool{onBegin: resp.Begin != nil, onDigests: resp.Digests != nil, onBatch: resp.Batch != nil, onEnd: resp.End != nil}
				if !kinds[tt.kind] {
					return []delta.Response{resp}
				}
				if n++; n-1 != tt.n {
					return []delta.Response{resp}
				}
				twisted = true
				return tt.twist(resp)
			}}
			open, err := r.Open()
			must(err)
			got := allocated(func() { err = l.round(f, r, open) })
			if !twisted || !errors.Is(err, delta.ErrProtocol) {
				t.Errorf("error %v, want ErrProtocol; had a response to twist: %v", err, twisted)
			}
			if got > 256<<20 {
				t.Errorf("%d bytes allocated", got)
			}
		})
	}
}

// receiverOf returns a receiver that is about to pull in a mode, and the source
// that makes it so.
func receiverOf(t *testing.T, set *memory, mode delta.Mode) (*follower, *delta.Receiver, delta.Source) {
	if mode == delta.Since {
		source := set.clone()
		source.commit(map[string]desired.Envelope{numberedKey(7): envelope("new"), numberedKey(8): nil})
		return follow(t, set, source, mode)
	}
	return follow(t, rival(set), set, mode)
}

// follow returns a receiver that is about to bring a copy up to date with source
// in a mode.
func follow(t *testing.T, copy, source *memory, mode delta.Mode) (*follower, *delta.Receiver, delta.Source) {
	f := newFollower(t, copy)
	f.seed = seedOne
	have := f.have()
	switch mode {
	case delta.Compare:
		return f, delta.NewComparer(codec, have, f.seed), source
	case delta.Full:
		have.Verified = desired.Revision{}
	case delta.Descent:
		have.Damaged = true
	}
	return f, delta.NewReceiver(codec, have, f.seed), source
}

func repeat(r delta.Response, n int) (all []delta.Response) {
	for range n {
		all = append(all, r)
	}
	return all
}

// deletions returns n deletions in batches.
func deletions(n int) (all []delta.Response) {
	w := delta.NewFrameWriter(codec)
	for i := range n {
		must(w.Add(desired.Change{Key: fmt.Appendf(nil, "%07d", i)}))
		if w.Full() || i == n-1 {
			all = append(all, batch(w.Frame()))
		}
	}
	return all
}

// TestReceiverRefusesHalfALevel lists one of two runs that were asked for.
func TestReceiverRefusesHalfALevel(t *testing.T) {
	source := numbered(2000, 3)
	f := newFollower(t, source.clone())
	f.copy.commit(map[string]desired.Envelope{numberedKey(0): envelope("new"), numberedKey(1999): envelope("new")})
	have := f.have()
	have.Damaged = true
	lists := 0
	l := &link{source: source, twist: func(resp delta.Response) []delta.Response {
		if resp.Digests != nil {
			if lists++; lists == 2 {
				return []delta.Response{digests(true, 1<<1, make([]byte, delta.ShortWidth))}
			}
		}
		return []delta.Response{resp}
	}}
	if _, err := l.run(f, delta.NewReceiver(codec, have, f.seed)); lists != 2 || !errors.Is(err, delta.ErrProtocol) {
		t.Errorf("error %v after %d lists, want ErrProtocol after 2", err, lists)
	}
}

// TestMarkOutlivesAnError checks that a round that fails takes nothing from what
// came before.
func TestMarkOutlivesAnError(t *testing.T) {
	for _, mode := range []delta.Mode{delta.Full, delta.Since} {
		f, r, src := receiverOf(t, numbered(2000, 3), mode)
		var before delta.Mark
		l := &link{source: src, twist: func(resp delta.Response) []delta.Response {
			if resp.End != nil {
				before = r.Mark()
				return []delta.Response{batch(frameOf(upsert("a")))}
			}
			return []delta.Response{resp}
		}}
		_, err := l.run(f, r)
		if got := r.Mark(); !errors.Is(err, delta.ErrProtocol) || len(got.After) == 0 || !reflect.DeepEqual(got, before) {
			t.Errorf("%v: mark %+v after %v, want %+v", mode, got, err, before)
		}
	}
}

// TestReceiverDoubts checks that what comes for a key that was never asked for
// does no lasting harm: the root tells, and a second descent puts it right.
func TestReceiverDoubts(t *testing.T) {
	source := numbered(2000, 3)
	f, r, src := receiverOf(t, source, delta.Descent)
	lies := 1
	l := &link{source: src, twist: func(resp delta.Response) []delta.Response {
		if resp.Batch != nil && lies > 0 {
			lies--
			return []delta.Response{batch(frameOf(upsert("a/lie"))), resp}
		}
		return []delta.Response{resp}
	}}
	if _, err := l.run(f, r); err != nil {
		t.Fatal(err)
	}
	f.check(source)
	if len(l.opens) != 2 || l.opens[1].Mode != delta.Descent {
		t.Errorf("opened %+v, want a second descent", l.opens)
	}
}

// FuzzReceiver lets a sender say anything, to a receiver in any mode. Whatever
// it is, each call returns, an error is about the protocol, and what it makes
// the receiver do is valid.
//
// A script is a byte for the mode, one for the height, and then responses: a
// byte for the kind, two for the length, and the content.
func FuzzReceiver(f *testing.F) {
	set := numbered(100, 3)
	type pair struct{ copy, source *memory }
	pairs := map[delta.Mode]pair{}
	for _, mode := range []delta.Mode{delta.Since, delta.Descent, delta.Full, delta.Compare} {
		f.Add(honestScript(set, mode))
		fo, _, src := receiverOf(nil, set, mode)
		pairs[mode] = pair{fo.copy, src.(*memory)}
	}
	f.Add([]byte{byte(delta.Descent), 2, 0, 0, 1, 1, 0, 0, 0})
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) < 2 {
			return
		}
		mode := delta.Mode(script[0]%4 + 1)
		fo, r, src := follow(t, pairs[mode].copy, pairs[mode].source, mode)
		p := player{source: src, mode: mode, height: int(int8(script[1])), rest: script[2:]}
		open, err := r.Open()
		must(err)
		for step := 0; err == nil && step < 1000; step++ {
			resp, ok := p.next(open.Open.Mode)
			if !ok {
				return
			}
			var over bool
			if _, over, err = deliver(fo, r, resp); over && err == nil {
				if r.Done() {
					return
				}
				p.begun = false
				if open, err = r.Open(); err != nil {
					return // too many rounds
				}
			}
		}
		if err != nil && !errors.Is(err, delta.ErrProtocol) && !errors.Is(err, delta.ErrUnverifiable) {
			t.Errorf("error %v, want ErrProtocol", err)
		}
		var changes []desired.Change
		for _, key := range sortedKeys(fo.unstaged) {
			changes = append(changes, desired.Change{Key: []byte(key), Envelope: fo.unstaged[key]})
		}
		checkChanges(t, changes)
	})
}

// player makes a sender's responses from a script.
type player struct {
	source delta.Source
	mode   delta.Mode
	height int
	begun  bool
	rest   []byte
}

func (p *player) next(mode delta.Mode) (resp delta.Response, ok bool) {
	if !p.begun {
		p.begun = true
		return delta.Response{Begin: &delta.Begin{
			Mode: mode, Head: p.source.Head(), Height: p.height, Salt: p.source.Shape().Salt,
		}}, true
	}
	if len(p.rest) < 3 {
		return resp, false
	}
	kind := p.rest[0]
	n := min(int(binary.BigEndian.Uint16(p.rest[1:])), len(p.rest)-3)
	content := p.rest[3 : 3+n : 3+n]
	p.rest = p.rest[3+n:]
	switch kind % 5 {
	case 0, 1:
		resp.Digests = &delta.Digests{Data: content, Last: kind%5 == 1}
	case 2: // a frame as it is, with the parts of the next response
		resp.Batch = &delta.Batch{Frame: content}
		if len(p.rest) > 0 {
			n := min(int(p.rest[0]), len(p.rest)-1)
			resp.Batch.Parts = p.rest[1 : 1+n : 1+n]
			p.rest = p.rest[1+n:]
		}
	case 3: // a frame that can be decoded, by what its keys begin with
		w := delta.NewFrameWriter(codec)
		for _, key := range bytes.Split(content, []byte{0}) {
			if len(key) == 0 {
				resp.Batch = &delta.Batch{}
			} else if key[0]&1 == 0 {
				must(w.Add(deletion(string(key))))
			} else {
				must(w.Add(upsert(string(key))))
			}
		}
		resp.Batch = &delta.Batch{Frame: w.Frame()}
	case 4:
		head := p.source.Head()
		head.Number += uint64(len(content))
		resp.End = &delta.End{Head: head}
	}
	return resp, true
}

// honestScript records a pull.
func honestScript(set *memory, mode delta.Mode) []byte {
	script := []byte{byte(mode - 1), 0}
	f, r, src := receiverOf(nil, set, mode)
	l := &link{source: src, twist: func(resp delta.Response) []delta.Response {
		add := func(kind byte, content []byte) {
			script = append(binary.BigEndian.AppendUint16(append(script, kind), uint16(len(content))), content...)
		}
		switch {
		case resp.Begin != nil:
			script[1] = byte(resp.Begin.Height)
		case resp.Digests != nil && resp.Digests.Last:
			add(1, resp.Digests.Data)
		case resp.Digests != nil:
			add(0, resp.Digests.Data)
		case resp.Batch != nil:
			add(2, resp.Batch.Frame)
			script = append(append(script, byte(len(resp.Batch.Parts))), resp.Batch.Parts...)
		case resp.End != nil:
			add(4, nil)
		}
		return []delta.Response{resp}
	}}
	_, err := l.run(f, r)
	must(err)
	return script
}
