// Package desired is the vocabulary that every floor of Espalier shares: what
// an object, a set, a revision and a change are, which ones are valid, how
// an object's content becomes a digest, and what a host is told and reports. It
// does no I/O and knows neither the wire nor the store.
package desired
