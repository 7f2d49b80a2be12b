// Package process answers what it takes to keep N copies of a program running on
// a host. It is a driver: an object says which program, with which arguments and
// environment, and how many copies of it.
//
// Each copy has a shim, a small process of this same binary that starts the
// program, writes its output into a log, and records how it ended. The shim is in
// a session of its own and no part of the agent, so that agents come and go
// without the programs noticing.
//
// What is known of the copies lies in files, one folder for each object:
//
//	run/<name>/<replica>.lock   held by the shim for as long as it lives
//	run/<name>/<replica>.json   which processes they are, and how the program ended
//	run/<name>/<replica>.stop   that it is to stop, and how
//
// A process id alone is never believed: it counts together with the time at which
// the process started and the boot in which it did, and signals go through a
// pidfd. What a copy leaves behind if its shim is killed is known by ESPALIER_RUN
// in its environment, which is random and new for each start.
//
// The driver starts nothing by itself. That a copy has ended it tells through
// Watch; whether, and how soon, it is started again is the agent's decision. It
// looks at nothing but whether a program runs: one that hangs is as good as any.
package process
