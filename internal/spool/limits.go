package spool

// Every bound of this package, with its reason.
const (
	// blockBytes is the size at which a block is closed: what a look-up reads,
	// and what a run that is merged keeps in memory.
	blockBytes = 16 << 10
	// inlineBytes is the largest envelope that lies in its record, so that a
	// block is never much larger than it should be. Larger ones lie apart, and
	// are neither sorted nor merged.
	inlineBytes = 4 << 10

	// bufferBytes is how much is sorted at once.
	bufferBytes = 16 << 20
	// chunkBytes is the unit in which buffers get their memory: small inputs
	// need little, and nothing is copied as they grow.
	chunkBytes = 512 << 10
	// memoryBytes is how much is kept in memory before a file is made.
	memoryBytes = 256 << 10
	// writeBytes is how much is written to a file at once.
	writeBytes = 256 << 10
	// treeBytes is how much of a tree's level 1 is kept in memory: that of half
	// a million objects. Levels above are a thousandth of the objects.
	treeBytes = 1 << 20
	// indexBytes bounds the index over a run's blocks: it is thinned out beyond,
	// so that a look-up reads several blocks.
	indexBytes = 4 << 20
	// fanIn bounds the runs that are merged at once, each with a block in
	// memory: 8 GiB of input are merged in one pass.
	fanIn = 512
)
