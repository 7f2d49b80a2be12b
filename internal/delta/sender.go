package delta

import (
	"bytes"
	"fmt"
	"slices"

	"espalier/internal/desired"
)

// Sender is the server's half of one pull.
//
// The caller hands it each request as it comes, and asks for responses while
// Pending, reading from a Source that is current at that moment: successive
// calls may see successive revisions.
type Sender struct {
	codec *Codec
	frame *FrameWriter
	open  *Open
	begun bool
	ended bool
	first desired.Head // at the first read

	// Since and Full.
	keys [][]byte // of Since: what is still to be sent
	from []byte   // of Full: where to go on

	descent descentSender
}

// NewSender returns a Sender that waits for an Open.
func NewSender(codec *Codec) *Sender {
	s := &Sender{codec: codec, frame: NewFrameWriter(codec)}
	s.frame.limit = min(firstFrameBytes, codec.frame)
	return s
}

// Receive takes a request, whose memory it keeps. It returns an error that
// matches ErrProtocol if the request is malformed or out of place; the pull is
// over then.
func (s *Sender) Receive(req Request) error {
	switch {
	case req.Open != nil && s.open == nil:
		return s.receiveOpen(req.Open)
	case req.Open != nil:
		return fmt.Errorf("%w: a second opening", ErrProtocol)
	case s.open == nil:
		return fmt.Errorf("%w: the first request has to open the pull", ErrProtocol)
	case req.Narrow != nil:
		return s.descent.receiveNarrow(req.Narrow)
	case req.Leaves != nil:
		return s.descent.receiveLeaves(req.Leaves)
	default:
		return fmt.Errorf("%w: an empty request", ErrProtocol)
	}
}

func (s *Sender) receiveOpen(o *Open) error {
	switch o.Mode {
	case Since, Full, Descent, Compare:
	default:
		return fmt.Errorf("%w: unknown mode %d", ErrProtocol, o.Mode)
	}
	if !validWidth(o.Width) {
		return fmt.Errorf("%w: digests of %d bytes", ErrProtocol, o.Width)
	}
	if max(len(o.After), len(o.From), len(o.Until)) > desired.MaxKeyBytes {
		return fmt.Errorf("%w: a key of more than %d bytes", ErrProtocol, desired.MaxKeyBytes)
	}
	open := *o
	if len(open.Until) == 0 {
		open.Until = nil
	}
	s.open, s.from = &open, successor(o.After)
	return nil
}

// Pending reports whether Next has something to say.
func (s *Sender) Pending() bool {
	switch {
	case s.open == nil || s.ended:
		return false
	case !s.begun:
		return true
	case s.open.Mode == Descent || s.open.Mode == Compare:
		return s.descent.pending()
	default:
		return true
	}
}

// Ended reports whether the stream is over: the last response was an End.
func (s *Sender) Ended() bool { return s.ended }

// Next returns the next response, of one bounded chunk read from src. Pending
// has to be true.
func (s *Sender) Next(src Source) (Response, error) {
	if !s.begun {
		return s.begin(src)
	}
	switch s.open.Mode {
	case Since:
		return s.nextSince(src)
	case Full:
		return s.nextFull(src)
	default:
		if s.descent.leaves.done() {
			return s.end(src), nil
		}
		return s.descent.next(src, s.frame)
	}
}

// begin settles the mode, at the first read.
func (s *Sender) begin(src Source) (Response, error) {
	s.begun = true
	s.first = src.Head()
	if s.open.Mode == Since {
		keys, ok, err := touchedSince(src, s.open.Base, MaxTouched)
		if err != nil {
			return Response{}, err
		}
		if s.keys = keys; !ok {
			s.open.Mode = Descent
		}
		i, sent := slices.BinarySearchFunc(s.keys, s.open.After, bytes.Compare)
		if sent {
			i++
		}
		s.keys = s.keys[i:]
	}
	height, err := src.Height()
	if err != nil {
		return Response{}, err
	}
	if s.open.Mode == Descent || s.open.Mode == Compare {
		s.descent.start(s.open, height)
	}
	return Response{Begin: &Begin{Mode: s.open.Mode, Head: s.first, Height: height, Salt: src.Shape().Salt}}, nil
}

// touchedSince returns the keys touched after base; ok is false where base is
// no revision of this history that the journal still reaches.
func touchedSince(src Source, base desired.Revision, limit int) (keys [][]byte, ok bool, err error) {
	head := src.Head()
	if base.Epoch != head.Epoch || base.Number > head.Number {
		return nil, false, nil
	}
	root, keys, ok, err := src.Touched(base.Number, limit)
	if err != nil || !ok || root != base.Root {
		return nil, false, err
	}
	return keys, true, nil
}

func (s *Sender) nextSince(src Source) (Response, error) {
	for len(s.keys) > 0 && !s.frame.Full() {
		c, err := current(src, s.keys[0])
		if err != nil {
			return Response{}, err
		}
		if err := s.frame.Add(c); err != nil {
			return Response{}, err
		}
		s.keys = s.keys[1:]
	}
	return s.batchOrEnd(src), nil
}

// current returns the object under key as it is now, or its deletion: a touched
// key that has no object is one.
func current(src Source, key []byte) (desired.Change, error) {
	c, ok, err := src.Get(key)
	if err == nil && !ok {
		c = desired.Change{Key: key}
	}
	return c, err
}

func (s *Sender) nextFull(src Source) (Response, error) {
	for c, err := range src.Objects(s.from, nil) {
		if err != nil {
			return Response{}, err
		}
		if err := s.frame.Add(c); err != nil {
			return Response{}, err
		}
		if s.frame.Full() {
			break
		}
	}
	if s.frame.Len() > 0 {
		s.from = successor(s.frame.last)
	}
	return s.batchOrEnd(src), nil
}

func (s *Sender) batchOrEnd(src Source) Response {
	if s.frame.Len() == 0 {
		return s.end(src)
	}
	return Response{Batch: &Batch{Frame: s.frame.Frame()}}
}

func (s *Sender) end(src Source) Response {
	s.ended = true
	if head := src.Head(); head.Revision != s.first.Revision {
		return Response{End: &End{Head: head}}
	}
	return Response{End: &End{}}
}

// successor returns the least key above key, or nil where there is no key.
func successor(key []byte) []byte {
	if len(key) == 0 {
		return nil
	}
	return append(bytes.Clone(key), 0)
}

// Held is a set as a poll names it: a revision by its prefixes.
type Held struct {
	Name   desired.Name
	Epoch  uint64 // Epoch.Prefix
	Number uint64 // 0: nothing is held
	Root   uint64 // Digest.Prefix
	Gone   bool   // it is lost or damaged: this is what it was
}

// Current reports whether what is held is head.
func (h Held) Current(head desired.Head) bool { return !h.Gone && h.names(head) }

// names reports whether h names head.
func (h Held) names(head desired.Head) bool {
	return h.Number == head.Number && h.Epoch == head.Epoch.Prefix() && h.Root == head.Root.Prefix()
}

// Inline returns the changes from what is held to the head as one frame, if
// that is exact and at most InlineBytes; otherwise ok is false, and a pull is
// needed.
func Inline(codec *Codec, src Source, held Held) (frame []byte, ok bool, err error) {
	head := src.Head()
	if held.Gone || held.Number == 0 || held.Epoch != head.Epoch.Prefix() || held.Number >= head.Number {
		return nil, false, nil
	}
	root, keys, ok, err := src.Touched(held.Number, InlineBytes/8)
	if err != nil || !ok || root.Prefix() != held.Root {
		return nil, false, err
	}
	w := NewFrameWriter(codec)
	for _, key := range keys {
		c, err := current(src, key)
		if err != nil {
			return nil, false, err
		}
		if w.size()+len(key)+len(c.Envelope) > 4*InlineBytes || w.whole+len(key) > MaxFrameKeyBytes {
			return nil, false, nil
		}
		if err := w.Add(c); err != nil {
			return nil, false, err
		}
	}
	if frame = w.Frame(); len(frame) > InlineBytes {
		return nil, false, nil
	}
	return frame, true, nil
}
