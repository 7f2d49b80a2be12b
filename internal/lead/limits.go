package lead

import "time"

// Every bound of leading, with its reason.
const (
	// MaxHold is how long a poll is held at most: a host that is gone meanwhile
	// holds a place for as long, unless the connection tells.
	MaxHold = 10 * time.Minute
	// PartingRate is how many hosts a second come back to a server that is started
	// again: half the handshakes that it takes. PartingTime is the least time over
	// which they do.
	PartingRate = 200
	PartingTime = 3 * time.Second
)
