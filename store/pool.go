package store

import (
	"container/list"
	"sync"
)

// slot is where the handle of a set's file hangs while it is open.
type slot struct {
	// opening is held while the file is opened, closed, replaced or removed, so
	// that none of these meets another at bbolt's lock on the file.
	opening sync.Mutex

	mu  sync.Mutex
	cur *handle // nil: not open
}

// borrow returns the open handle with a reference for the caller, and opens the
// file if need be.
func (s *slot) borrow(open func() (*handle, error)) (*handle, error) {
	if h := s.acquire(); h != nil {
		return h, nil
	}
	s.opening.Lock()
	defer s.opening.Unlock()
	if h := s.acquire(); h != nil {
		return h, nil
	}
	h, err := open()
	if err != nil {
		return nil, err
	}
	h.acquire()
	s.mu.Lock()
	s.cur = h
	s.mu.Unlock()
	return h, nil
}

func (s *slot) acquire() *handle {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cur == nil || !s.cur.acquire() {
		return nil
	}
	return s.cur
}

// holds reports whether h is the file that is open.
func (s *slot) holds(h *handle) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cur == h
}

// exclusively calls fn while nobody opens or closes the file.
func (s *slot) exclusively(fn func() error) error {
	s.opening.Lock()
	defer s.opening.Unlock()
	return fn()
}

// swap puts h, nil for none, in the place of the handle, which closes once it
// isn't borrowed any more.
func (s *slot) swap(h *handle) {
	s.mu.Lock()
	old := s.cur
	s.cur = h
	s.mu.Unlock()
	if old != nil {
		old.retire()
	}
}

// give empties the slot; its handle is the caller's from now on.
func (s *slot) give() *handle {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.cur
	s.cur = nil
	return h
}

// closeIdle closes the file unless it is borrowed, and reports whether it is
// closed.
func (s *slot) closeIdle() bool {
	s.opening.Lock()
	defer s.opening.Unlock()
	s.mu.Lock()
	h := s.cur
	s.mu.Unlock()
	if h == nil {
		return true
	}
	if !h.retireIdle() {
		return false
	}
	s.mu.Lock()
	if s.cur == h {
		s.cur = nil
	}
	s.mu.Unlock()
	return true
}

// pool keeps the number of open files down: those that were used least
// recently close.
type pool struct {
	size int

	mu    sync.Mutex
	order *list.List // of *slot, the latest first
	at    map[*slot]*list.Element
}

func newPool(size int) *pool {
	return &pool{size: size, order: list.New(), at: map[*slot]*list.Element{}}
}

// use notes that s is open and in use, and closes others if there are too many.
// Those that are borrowed stay open, and are tried again at the next use.
func (p *pool) use(s *slot) {
	for _, old := range p.touch(s) {
		if !old.closeIdle() {
			p.keep(old)
		}
	}
}

// touch moves s to the front and takes out those that are too many.
func (p *pool) touch(s *slot) (old []*slot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e, ok := p.at[s]; ok {
		p.order.MoveToFront(e)
	} else {
		p.at[s] = p.order.PushFront(s)
	}
	for e := p.order.Back(); len(p.at) > p.size && e.Value != any(s); e = p.order.Back() {
		old = append(old, e.Value.(*slot))
		delete(p.at, e.Value.(*slot))
		p.order.Remove(e)
	}
	return old
}

// keep puts back a slot that was taken out.
func (p *pool) keep(s *slot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.at[s]; !ok {
		p.at[s] = p.order.PushBack(s)
	}
}
