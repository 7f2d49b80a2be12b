package process

import (
	"context"
	"fmt"
	"strings"

	"espalier/agent/driver"
)

// Scan implements driver.Scanner. It looks whether the copies run, which costs a
// few small files each, and so does the same where contents are asked for. An
// object that is being applied is not looked at.
func (d *Driver) Scan(ctx context.Context, s driver.Scan) error {
	for known, err := range s.Objects {
		if err != nil {
			return err
		}
		if err := s.Spend(ctx, 1, 0); err != nil {
			return err
		}
		if found, ok := d.scan(known); ok {
			s.Report(known, found)
		}
	}
	return nil
}

// scan looks at one object, and reports whether there is anything to say.
func (d *Driver) scan(known driver.Known) (driver.Finding, bool) {
	if !d.tryLook(known.Name) {
		return driver.Finding{}, false
	}
	defer d.release(known.Name)
	d.mentioned(known.Name)
	n, err := readNote(known.Note)
	if err != nil || known.Note == nil {
		return driver.Finding{Drift: "nothing is known of what was applied"}, true
	}
	slots, err := d.slots(known.Name, n.Replicas)
	if err != nil {
		return driver.Finding{Err: err}, true
	}
	var look inspection
	for _, s := range slots {
		c, err := s.look()
		if err != nil {
			return driver.Finding{Err: err}, true
		}
		look.add(c, n, d.boot)
	}
	drift := look.drift(n)
	return driver.Finding{Drift: drift}, drift != ""
}

// inspection is what a look at an object's copies has found.
type inspection struct {
	running, older int
	wrong          []string
}

func (l *inspection) add(c copyState, n note, boot string) {
	switch {
	case c.replica >= n.Replicas:
		if c.phase != phaseNone {
			l.wrong = append(l.wrong, fmt.Sprintf("copy %d runs, too", c.replica))
		}
	case c.phase == phaseStopping:
		l.wrong = append(l.wrong, fmt.Sprintf("copy %d is being stopped", c.replica))
	case c.phase == phaseBetween:
		l.wrong = append(l.wrong, fmt.Sprintf("copy %d is about to start or to end", c.replica))
	case c.phase == phaseNone:
		l.wrong = append(l.wrong, fmt.Sprintf("copy %d %s", c.replica, fate(c.state, boot)))
	case c.Version != n.Version:
		l.running++
		l.older++
		l.wrong = append(l.wrong, fmt.Sprintf("copy %d is of another version", c.replica))
	default:
		l.running++
	}
}

// drift says it in a few words; empty: all is as it shall be.
func (l *inspection) drift(n note) string {
	if len(l.wrong) == 0 {
		return ""
	}
	const most = 3
	shown := l.wrong[:min(most, len(l.wrong))]
	text := fmt.Sprintf("%d of %d copies run; %s", l.running, n.Replicas, strings.Join(shown, "; "))
	if more := len(l.wrong) - len(shown); more > 0 {
		text = fmt.Sprintf("%s; and %d more", clip(text, maxDriftBytes-20), more)
	}
	return clip(text, maxDriftBytes)
}
