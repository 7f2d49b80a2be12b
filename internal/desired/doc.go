// Package desired is the vocabulary that every floor of Espalier shares: what
// an object, a set, a revision and a change are, which ones are valid, and how
// an object's content becomes a digest. It does no I/O and knows neither the
// wire nor the store.
package desired
