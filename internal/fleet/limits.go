package fleet

import "time"

// MaxHosts bounds the hosts that are kept in memory, some 500 bytes each: ten
// fleets of 10,000. Without TLS anybody on the machine can name hosts.
const MaxHosts = 100_000

// maxLead bounds how far a host's claim to have a later list than the server's moves
// the version of the next: a host could use up all there are. A server that was put
// back from a copy is never that far behind.
const maxLead = 1 << 20

// A host that has not polled for silentAfter of the time that it was told to
// wait, and silentMargin for what a sync and a few tries take, is silent.
const (
	silentAfter  = 2
	silentMargin = time.Minute
)
