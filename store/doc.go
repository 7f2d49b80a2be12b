// Package store keeps sets on disk: their objects, trees, revisions and
// journals, in one bbolt file a set, for the orchestrator (Store) and for the
// agent (Mirror).
package store
