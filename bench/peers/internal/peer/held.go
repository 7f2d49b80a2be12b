package peer

import (
	"context"
	"sync"
)

// held is a copy in memory, which a goroutine that receives and others share.
type held struct {
	mu      sync.Mutex
	changed *sync.Cond
	objects map[string][]byte
	mark    uint64
	err     error // why nothing comes any more
}

func newHeld() *held {
	h := &held{objects: map[string][]byte{}}
	h.changed = sync.NewCond(&h.mu)
	return h
}

// edit calls fn with the objects, which it may change or replace; what it returns
// is the copy from then on, at that mark.
func (h *held) edit(fn func(objects map[string][]byte) (now map[string][]byte, mark uint64)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var mark uint64
	h.objects, mark = fn(h.objects)
	h.mark = max(h.mark, mark)
	h.changed.Broadcast()
}

// fail ends all waiting; nil: it may begin anew.
func (h *held) fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.err = err
	h.changed.Broadcast()
}

// at returns the mark.
func (h *held) at() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mark
}

// await waits for a mark.
func (h *held) await(ctx context.Context, mark uint64) error {
	defer context.AfterFunc(ctx, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.changed.Broadcast()
	})()
	h.mu.Lock()
	defer h.mu.Unlock()
	for h.mark < mark && h.err == nil && ctx.Err() == nil {
		h.changed.Wait()
	}
	switch {
	case h.mark >= mark:
		return nil
	case h.err != nil:
		return h.err
	default:
		return context.Cause(ctx)
	}
}

// Each is that of Client.
func (h *held) Each(object func(key string, value []byte)) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for key, value := range h.objects {
		object(key, value)
	}
	return nil
}
