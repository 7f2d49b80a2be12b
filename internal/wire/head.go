package wire

import (
	"fmt"

	"espalier/internal/delta"
	"espalier/internal/desired"
	espalierv1 "espalier/proto/espalier/v1"
)

// PositionToWire returns p as a message.
func PositionToWire(p desired.Position) *espalierv1.Position {
	m := &espalierv1.Position{Number: p.Number}
	if !p.Epoch.IsZero() {
		m.Epoch = p.Epoch[:]
	}
	return m
}

// PositionFromWire reads a position; an absent epoch is the zero one.
func PositionFromWire(m *espalierv1.Position) (desired.Position, error) {
	p := desired.Position{Number: m.GetNumber()}
	if len(m.GetEpoch()) > 0 && copy(p.Epoch[:], m.Epoch) != len(m.Epoch) || len(m.GetEpoch())%len(p.Epoch) != 0 {
		return desired.Position{}, fmt.Errorf("%w position: an epoch of %d bytes", desired.ErrInvalid, len(m.Epoch))
	}
	if p.Number > desired.MaxNumber {
		return desired.Position{}, fmt.Errorf("%w position: number %d, at most %d is allowed", desired.ErrInvalid, p.Number, uint64(desired.MaxNumber))
	}
	return p, nil
}

// DigestFromWire reads a digest; an absent one is the zero one.
func DigestFromWire(b []byte) (desired.Digest, error) {
	var d desired.Digest
	if len(b) != 0 && len(b) != len(d) {
		return d, fmt.Errorf("%w digest: %d bytes", desired.ErrInvalid, len(b))
	}
	copy(d[:], b)
	return d, nil
}

// HeadToWire returns h as a message.
func HeadToWire(h desired.Head) *espalierv1.Head {
	m := &espalierv1.Head{
		Position: PositionToWire(h.Position), Root: h.Root[:], Objects: h.Objects, Bytes: h.Bytes,
	}
	for _, p := range h.Lineage {
		m.Lineage = append(m.Lineage, PositionToWire(p))
	}
	return m
}

// HeadFromWire reads a head, which only servers send.
func HeadFromWire(m *espalierv1.Head) (desired.Head, error) {
	h, err := headFromWire(m)
	return h, answered(err)
}

// ObjectFromWire reads the object under key, which only servers send. Its value
// shares the envelope's memory.
func ObjectFromWire(key string, envelope []byte) (desired.Object, error) {
	o, err := desired.Envelope(envelope).Object([]byte(key))
	return o, answered(err)
}

// answered returns err, about what a server answered, as one that matches
// delta.ErrProtocol and nothing else.
func answered(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %v", delta.ErrProtocol, err) //nolint:errorlint // it must not match ErrInvalid: no user is to blame
}

func headFromWire(m *espalierv1.Head) (desired.Head, error) {
	h := desired.Head{Objects: m.GetObjects(), Bytes: m.GetBytes()}
	var err error
	if h.Position, err = PositionFromWire(m.GetPosition()); err != nil {
		return desired.Head{}, err
	}
	if h.Root, err = DigestFromWire(m.GetRoot()); err != nil {
		return desired.Head{}, err
	}
	if h.Epoch.IsZero() || h.Number == 0 || h.Root.IsZero() {
		return desired.Head{}, fmt.Errorf("%w head: epoch, number or root is missing", desired.ErrInvalid)
	}
	if len(m.GetLineage()) > desired.MaxLineage {
		return desired.Head{}, fmt.Errorf("%w head: a lineage of %d epochs", desired.ErrInvalid, len(m.Lineage))
	}
	for _, l := range m.GetLineage() {
		p, err := PositionFromWire(l)
		if err != nil {
			return desired.Head{}, err
		}
		h.Lineage = append(h.Lineage, p)
	}
	return h, nil
}
