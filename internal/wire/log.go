package wire

import (
	"fmt"
	"time"

	"espalier/internal/desired"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/store"
)

// LogEntryToWire returns e as a message.
func LogEntryToWire(e store.LogEntry) *espalierv1.LogEntry {
	return &espalierv1.LogEntry{
		Position: PositionToWire(e.Position), Root: e.Root[:], UnixMs: uint64(max(0, e.Time.UnixMilli())),
		Who: validText(e.Who), Why: validText(e.Why), Keys: e.Keys, Base: e.Base,
	}
}

// LogEntryFromWire reads an entry, which only servers send.
func LogEntryFromWire(m *espalierv1.LogEntry) (store.LogEntry, error) {
	e := store.LogEntry{
		Time: time.UnixMilli(int64(m.GetUnixMs())), Who: m.GetWho(), Why: m.GetWhy(), Keys: m.GetKeys(), Base: m.GetBase(),
	}
	var err error
	if e.Position, err = PositionFromWire(m.GetPosition()); err != nil {
		return store.LogEntry{}, answered(err)
	}
	if e.Root, err = DigestFromWire(m.GetRoot()); err == nil && (e.Number == 0 || e.Root.IsZero()) {
		err = fmt.Errorf("%w log: number or root is missing", desired.ErrInvalid)
	}
	return e, answered(err)
}
