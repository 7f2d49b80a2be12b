package fleet

import "time"

// MaxHosts bounds the hosts that are kept in memory, some 500 bytes each: ten
// fleets of 10,000. Without TLS anybody on the machine can name hosts.
const MaxHosts = 100_000

// A host that has not polled for silentAfter of the time that it was told to
// wait, and silentMargin for what a sync and a few tries take, is silent.
const (
	silentAfter  = 2
	silentMargin = time.Minute
)
