package store

// Small returns o with the bounds on what is handled at once lowered to rows,
// so that small sets are rewritten and read in chunks.
func Small(o Options, rows int) Options {
	o.small = rows
	return o
}
