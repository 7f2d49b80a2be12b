// Package store answers where sets live on a disk: their objects, trees,
// revisions and journals, for the orchestrator (Store) and for the agent
// (Mirror, and Staging, a mirror in the making). Both are thin shells around
// one core: one file format (schema.go), one way to change a file in place
// (edit), one to write a new one (loader), one to read (Snapshot).
//
// # Durability
//
// A set is one bbolt file. A commit is one transaction of it, or, if it is
// large, a new file that is written front to back, synced and renamed over the
// old one; readers keep the old one for as long as they hold it. Either way a
// commit is whole or not at all, and is acknowledged once it is on the disk. If
// the disk is full nothing has happened and the set goes on; if a sync fails
// the file is not used again, since nobody knows what is in it.
//
// # Integrity
//
// An object is stored with its digest and checked against it whenever it leaves
// a snapshot. A set that is found to contradict itself is quarantined by name,
// and the others go on; Scrub looks where nobody reads, Check recomputes
// everything, Restore ends a quarantine. A mirror is repaired instead: its tree
// is made to describe honestly what is stored, so that a comparison with the
// server's finds what has to be fetched again.
//
// A file is closed with its free pages listed in it; one that isn't was not
// closed, and its structure is verified before bbolt, which can crash on a
// damaged page, opens it.
//
// # Layout
//
// In the data folder, all of it readable by its owner only:
//
//	lock                 who has the folder open
//	fleet.db             the epochs that sets of each name had
//	sets/NAME.db         a set, or an agent's mirror of it
//	sets/NAME.db.floor   the latest revision that a mirror held
//	sets/NAME.db.floor2  the same again
//	sets/NAME.db.staging a mirror in the making
//	sets/NAME.db.new     a file that is being written; removed at the next start
//	sets/NAME.db.damaged a mirror that can't be read, kept to look at
//
// # Rejected
//
// Changing a large part of a bbolt file in one transaction: it holds every page
// in memory, 300 to 400 MB for 50,000 scattered changes. Loading a new file
// with bbolt's own Put: two and a half times the time of writing its pages front
// to back (internal/boltfile). Marking an unclean stop in a file of its own: the
// files themselves tell, each for itself.
package store
