package apply

import (
	"fmt"
	"slices"
	"time"
)

// day is the length of one by the clock on the wall.
const day = 24 * time.Hour

// Check returns nil if w is a window.
func (w Window) Check() error {
	if w.From < 0 || w.From >= day || w.Until < 0 || w.Until > day {
		return fmt.Errorf("window from %v until %v: want times of a day", w.From, w.Until)
	}
	return nil
}

// open reports whether w is open at a time, and when that changes, as far as it
// is within the next day; zero: it isn't.
func (w Window) open(now time.Time) (is bool, change time.Time) {
	for _, days := range []int{-1, 0, 1} {
		begin := midnight(now, days)
		if len(w.Days) > 0 && !slices.Contains(w.Days, begin.Weekday()) {
			continue
		}
		from, until := wall(begin, w.From), wall(begin, w.Until)
		if w.Until <= w.From {
			until = wall(begin, w.Until+day)
		}
		switch {
		case now.Before(from):
			return false, from
		case now.Before(until):
			return true, until
		}
	}
	return false, time.Time{}
}

// midnight returns the beginning of the day of a time, or of one so many days
// later.
func midnight(t time.Time, days int) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day()+days, 0, 0, 0, 0, t.Location())
}

// wall returns when a clock on the wall shows so long after midnight: on days on
// which clocks are set that is not so long after.
func wall(begin time.Time, after time.Duration) time.Time {
	return time.Date(begin.Year(), begin.Month(), begin.Day(), 0, 0, 0, int(after), begin.Location())
}

// open reports whether a new state may be applied at a time, and when to look
// again; zero: that never changes.
func open(windows []Window, now time.Time) (is bool, look time.Time) {
	if len(windows) == 0 {
		return true, time.Time{}
	}
	look = now.Add(day / 2) // none need be within the next day
	for _, w := range windows {
		isOpen, change := w.open(now)
		is = is || isOpen
		if !change.IsZero() && change.Before(look) {
			look = change
		}
	}
	return is, look
}
