package wire

import (
	"fmt"

	"espalier/internal/delta"
	"espalier/internal/desired"
	espalierv1 "espalier/proto/espalier/v1"
)

// PullRequestToWire returns req as a message.
func PullRequestToWire(req delta.Request) *espalierv1.PullRequest {
	switch {
	case req.Narrow != nil:
		return &espalierv1.PullRequest{Step: &espalierv1.PullRequest_Narrow{Narrow: req.Narrow}}
	case req.Leaves != nil:
		return &espalierv1.PullRequest{Step: &espalierv1.PullRequest_Leaves{Leaves: req.Leaves}}
	default:
		return &espalierv1.PullRequest{Step: &espalierv1.PullRequest_Open{Open: openToWire(req.Open)}}
	}
}

func openToWire(o *delta.Open) *espalierv1.PullOpen {
	m := &espalierv1.PullOpen{
		Set: string(o.Set), Mode: espalierv1.PullMode(o.Mode), After: o.After,
		Seed: o.Seed, Width: uint32(o.Width), From: o.From, Until: o.Until,
	}
	if o.Mode == delta.Since {
		m.Position, m.Root = PositionToWire(o.Base.Position), o.Base.Root[:]
	}
	return m
}

// PullRequestFromWire reads a request of a pull.
func PullRequestFromWire(m *espalierv1.PullRequest) (delta.Request, error) {
	switch step := m.GetStep().(type) {
	case *espalierv1.PullRequest_Open:
		o, err := openFromWire(step.Open)
		return delta.Request{Open: o}, err
	case *espalierv1.PullRequest_Narrow:
		return delta.Request{Narrow: notNil(step.Narrow)}, nil
	case *espalierv1.PullRequest_Leaves:
		return delta.Request{Leaves: notNil(step.Leaves)}, nil
	default:
		return delta.Request{}, fmt.Errorf("%w pull: a request without a step", desired.ErrInvalid)
	}
}

func notNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

func openFromWire(m *espalierv1.PullOpen) (*delta.Open, error) {
	name, err := desired.ParseName(m.GetSet())
	if err != nil {
		return nil, err
	}
	o := &delta.Open{
		Set: name, Mode: delta.Mode(m.GetMode()), After: m.GetAfter(), Seed: m.GetSeed(), Width: int(m.GetWidth()),
		From: m.GetFrom(), Until: m.GetUntil(),
	}
	if o.Base.Position, err = PositionFromWire(m.GetPosition()); err != nil {
		return nil, err
	}
	if o.Base.Root, err = DigestFromWire(m.GetRoot()); err != nil {
		return nil, err
	}
	for _, key := range [][]byte{o.After, o.From, o.Until} {
		if len(key) > desired.MaxKeyBytes {
			return nil, fmt.Errorf("%w pull: a key of %d bytes", desired.ErrInvalid, len(key))
		}
	}
	if len(o.Until) == 0 {
		o.Until = nil
	}
	return o, nil
}

// PullResponseToWire returns resp as a message.
func PullResponseToWire(resp delta.Response) *espalierv1.PullResponse {
	switch {
	case resp.Begin != nil:
		b := resp.Begin
		return &espalierv1.PullResponse{Step: &espalierv1.PullResponse_Begin{Begin: &espalierv1.PullBegin{
			Mode: espalierv1.PullMode(b.Mode), Head: HeadToWire(b.Head), Height: uint32(b.Height), Salt: b.Salt,
		}}}
	case resp.Digests != nil:
		return &espalierv1.PullResponse{Step: &espalierv1.PullResponse_Digests{Digests: &espalierv1.PullDigests{
			Data: resp.Digests.Data, Last: resp.Digests.Last,
		}}}
	case resp.Batch != nil:
		return &espalierv1.PullResponse{Step: &espalierv1.PullResponse_Batch{Batch: &espalierv1.PullBatch{
			Frame: resp.Batch.Frame, Parts: resp.Batch.Parts,
		}}}
	default:
		end := &espalierv1.PullEnd{}
		if resp.End.Head.Number != 0 {
			end.Head = HeadToWire(resp.End.Head)
		}
		return &espalierv1.PullResponse{Step: &espalierv1.PullResponse_End{End: end}}
	}
}

// PullResponseFromWire reads a response of a pull.
func PullResponseFromWire(m *espalierv1.PullResponse) (delta.Response, error) {
	switch step := m.GetStep().(type) {
	case *espalierv1.PullResponse_Begin:
		head, err := HeadFromWire(step.Begin.GetHead())
		return delta.Response{Begin: &delta.Begin{
			Mode: delta.Mode(step.Begin.GetMode()), Head: head,
			Height: int(step.Begin.GetHeight()), Salt: step.Begin.GetSalt(),
		}}, err
	case *espalierv1.PullResponse_Digests:
		return delta.Response{Digests: &delta.Digests{Data: step.Digests.GetData(), Last: step.Digests.GetLast()}}, nil
	case *espalierv1.PullResponse_Batch:
		return delta.Response{Batch: &delta.Batch{Frame: step.Batch.GetFrame(), Parts: step.Batch.GetParts()}}, nil
	case *espalierv1.PullResponse_End:
		end := &delta.End{}
		if step.End.GetHead() == nil {
			return delta.Response{End: end}, nil
		}
		var err error
		end.Head, err = HeadFromWire(step.End.GetHead())
		return delta.Response{End: end}, err
	default:
		return delta.Response{}, fmt.Errorf("%w: a response without a step", delta.ErrProtocol)
	}
}
