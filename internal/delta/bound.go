package delta

import (
	"fmt"

	"espalier/internal/desired"
)

// bound is what a round may still bring. A set has what its head says, and grows
// while it is pulled; a sender that goes far beyond is making objects up, and
// would fill the receiver's disk before any root could tell.
type bound struct {
	head           desired.Head
	objects, bytes uint64
}

func boundOf(head desired.Head) bound {
	const most = 1 << 62 // a head may say anything
	return bound{
		head:    head,
		objects: growthFactor*min(head.Objects, most/growthFactor) + growthObjects,
		bytes:   growthFactor*min(head.Bytes, most/growthFactor) + growthBytes,
	}
}

// take counts what has come.
func (b *bound) take(changes []desired.Change) error {
	for i := range changes {
		if changes[i].Deleted() {
			continue
		}
		n := uint64(changes[i].PayloadBytes())
		if b.objects == 0 || b.bytes < n {
			return fmt.Errorf("%w: more comes than %d objects and %d bytes could have grown to, which the head of %v has",
				ErrProtocol, b.head.Objects, b.head.Bytes, b.head.Position)
		}
		b.objects--
		b.bytes -= n
	}
	return nil
}
