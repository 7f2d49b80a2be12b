package wire

import (
	"espalier/internal/desired"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/store"
)

// SetToWire returns h as a message.
func SetToWire(h store.NamedHead) *espalierv1.SetInfo {
	m := &espalierv1.SetInfo{Name: string(h.Name), Forked: h.Forked}
	if h.Err != nil {
		m.Error = validText(h.Err.Error())
	} else {
		m.Head = HeadToWire(h.Head)
	}
	return m
}

// SetFromWire reads a set as a server lists it.
func SetFromWire(m *espalierv1.SetInfo) (h store.NamedHead, err error) {
	if h.Name, err = desired.ParseName(m.GetName()); err != nil {
		return store.NamedHead{}, answered(err)
	}
	if m.GetError() != "" {
		h.Err = &statusError{message: m.GetError(), matches: store.ErrQuarantined}
		return h, nil
	}
	h.Forked = m.GetForked()
	h.Head, err = HeadFromWire(m.GetHead())
	return h, err
}
