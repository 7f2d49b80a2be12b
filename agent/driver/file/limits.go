package file

import "time"

// Every bound of this package.
const (
	// DefaultMaxWatches bounds the folders that are watched: systems have from 8,192
	// watches for all of a user's programs.
	DefaultMaxWatches = 4096
	// MaxPatterns bounds Options.Unmanaged: each name is held against all of them.
	MaxPatterns = 1024

	// batchObjects and batchBytes bound one Apply: it takes two syncs of the file
	// system however few files, and half a kilobyte of memory for each.
	batchObjects = 8192
	batchBytes   = 32 << 20
	// batchTimeout leaves a slow disk time to sync a batch.
	batchTimeout = 5 * time.Minute
	// fewFiles is up to how many files are made durable one by one. On an idle disk,
	// 64 took 40 ms so, and 22 ms with syncfs; but syncfs waits for all that others
	// have written: where somebody else wrote a million files, one took 17 ms, and
	// 1.7 s with syncfs, and 64 took 53 ms and 198 ms.
	fewFiles = 64

	// maxNameBytes bounds a segment of a name, on every file system of note.
	maxNameBytes = 255
	// maxTargetBytes bounds what a symbolic link points to: one page, with a zero.
	maxTargetBytes = 4095
	// maxFolders bounds the folders that one call holds open: systems have from
	// 1,024 descriptors for a program.
	maxFolders = 64
	// folderAttempts bounds how often a folder is looked for that others move.
	folderAttempts = 8
	// tempAttempts bounds the temporary names that are tried.
	tempAttempts = 8
	// maxParallel bounds the Apply calls at once: more wait for the same journal.
	maxParallel = 4
	// maxSwept bounds the folders that are remembered to hold no leftovers.
	maxSwept = 1 << 16
	// maxSuspects bounds the names that are remembered to be in memory alone, after
	// a sync that failed.
	maxSuspects = 1 << 17
	// listEntries is how much of a folder is listed at a time.
	listEntries = 1024

	// scanChunk is how many objects a scan hands to a worker at a time.
	scanChunk = 512
	// readChunk is how much is read of a file at a time.
	readChunk = 256 << 10

	// watchDelay is how long it takes until a folder is watched that was written to:
	// what is written in a row should not be told to ourselves.
	watchDelay = 2 * time.Second
)
