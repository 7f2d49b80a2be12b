package pace

import "fmt"

// Reason says what set a hint, in a word that a person is shown.
type Reason uint8

// The reasons, from the usual ones to those that tell of trouble.
const (
	// Changing: how often the host's sets change.
	Changing Reason = iota
	// Burst: changes a moment ago, which others follow.
	Burst
	// Objective: the host's sets change too rarely to matter; the longest that a
	// change may wait.
	Objective
	// Joined: the host's first poll; hosts that join together are spread.
	Joined
	// Restart: its first poll since the server restarted; the fleet is spread.
	Restart
	// Budget: the server can't take the polls that the objective asks for, and so
	// the host waits longer than that.
	Budget
	// Overloaded: the host was refused, and retries.
	Overloaded
)

var reasons = [...]string{"changing", "burst", "objective", "joined", "restart", "budget", "overloaded"}

// String returns the reason as one lower-case word.
func (r Reason) String() string {
	if int(r) < len(reasons) {
		return reasons[r]
	}
	return fmt.Sprintf("reason %d", uint8(r))
}
