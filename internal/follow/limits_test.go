package follow

import (
	"math"
	"testing"
	"time"
)

func TestWaits(t *testing.T) {
	for _, c := range []struct{ option, server, least, most time.Duration }{
		{0, 0, DefaultInterval, DefaultInterval},
		{0, 10 * time.Second, 10 * time.Second, 10 * time.Second},
		{20 * time.Second, 10 * time.Second, 20 * time.Second, 20 * time.Second},
		{0, time.Millisecond, MinInterval, MinInterval},
		{0, math.MaxUint32 * time.Millisecond, MaxInterval, MaxInterval},
	} {
		f := &Follower{options: Options{Interval: c.option}, next: c.server}
		for range 1000 {
			if got := f.interval(); got < c.least*9/10 || got > c.most*11/10 {
				t.Fatalf("asked for %v, told %v: it waits %v", c.option, c.server, got)
			}
		}
	}
	for failures, most := range map[int]time.Duration{1: time.Second, 2: 1600 * time.Millisecond, 50: 2 * time.Minute, 1 << 30: 2 * time.Minute} {
		for range 1000 {
			if got := new(Follower).backoff(failures); got < 0 || got > most {
				t.Fatalf("after %d failures it waits %v, at most %v is right", failures, got, most)
			}
		}
	}
}
