package lead

import "time"

// Every bound of leading, with its reason.
const (
	// MaxHold is how long a poll is held at most: a host that is gone meanwhile
	// holds a place for as long, unless the connection tells.
	MaxHold = 10 * time.Minute
)
