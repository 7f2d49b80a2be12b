package apply

import (
	"time"

	"espalier/agent/driver"
	"espalier/store"
)

// Route hands the objects whose keys begin with a prefix to a driver. Of several
// whose prefixes a key begins with, the longest wins.
type Route struct {
	// Prefix is what the keys begin with; empty: all.
	Prefix string
	// Name is what the record keeps of which driver made an object true, as "file
	// /srv/site": if it is another the next time, the object is applied anew. At
	// most store.MaxRouteBytes.
	Name string
	// Version says how the driver is set up otherwise: if it is another the next
	// time, objects that the driver took for unmanaged are tried anew.
	Version string
	Driver  driver.Driver
}

// Policy says what an agent may do to its host, and when. The zero Policy makes
// the host match at once, and always.
type Policy struct {
	// MaxDelete bounds the objects that one new state may delete from the host; more
	// wait for an operator to release it. Its Prefix is ignored. Nil:
	// DefaultMaxDelete.
	MaxDelete *store.DeleteLimit
	// Detect says that nothing is changed on the host: what would be is reported.
	Detect bool
	// Windows are when a new state may be applied; none: always. Drift is corrected
	// at all times.
	Windows []Window
	// Rate bounds the objects that are applied a second; 0: any number.
	Rate float64
	// Timeout bounds one call of a driver that says nothing of it; 0:
	// DefaultTimeout.
	Timeout time.Duration
	// ScanInterval is from the end of a scan for drift to the beginning of the next;
	// 0: DefaultScanInterval, less than 0: no scans. ScanRate is how many objects a
	// second it looks at; 0: DefaultScanRate.
	ScanInterval time.Duration
	ScanRate     float64
	// ContentsInterval, ContentsRate and ContentsBytes are the same for scans that
	// read contents, the last in bytes a second; 0: the defaults, an interval less
	// than 0: none.
	ContentsInterval time.Duration
	ContentsRate     float64
	ContentsBytes    float64
}

// Window is a part of the week, in the machine's time zone.
type Window struct {
	// Days says on which it begins; none: on all.
	Days []time.Weekday
	// From and Until are since midnight. If Until is not after From, it is of the
	// next day.
	From, Until time.Duration
}
