package process

import "context"

// claim says who is busy with an object: one who changes it, or some who look.
type claim struct {
	changed bool
	looks   int
	free    chan struct{} // closed once nobody is any more
}

// take waits until nobody else is busy with the object, and claims it for who
// changes it.
func (d *Driver) take(ctx context.Context, name string) error {
	for {
		d.mu.Lock()
		c := d.claims[name]
		if c == nil {
			d.claims[name] = &claim{changed: true, free: make(chan struct{})}
		}
		d.mu.Unlock()
		if c == nil {
			return nil
		}
		select {
		case <-c.free:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// tryLook reports whether nobody changes the object, and keeps it so until
// release.
func (d *Driver) tryLook(name string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.claims[name]
	switch {
	case c == nil:
		d.claims[name] = &claim{looks: 1, free: make(chan struct{})}
	case c.changed:
		return false
	default:
		c.looks++
	}
	return true
}

// release ends one claim.
func (d *Driver) release(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.claims[name]
	if c.looks--; c.looks > 0 {
		return
	}
	close(c.free)
	delete(d.claims, name)
}

// awaitLook is tryLook, except that it waits until nobody changes the object.
func (d *Driver) awaitLook(ctx context.Context, name string) error {
	for !d.tryLook(name) {
		d.mu.Lock()
		c := d.claims[name]
		d.mu.Unlock()
		if c == nil {
			continue
		}
		select {
		case <-c.free:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}
