// Package file answers how objects become files and symbolic links under a root
// folder, and stay so. It is a driver of package driver.
//
// # Never torn, never outside
//
// A file is written under another name in its folder, made durable, and renamed
// to its own: who reads sees the old version or the new one, also after a power
// cut. A file that exists is never opened for writing, so that nothing is written
// through a hard link. All names are taken relative to the descriptors of folders
// that were opened step by step from the root, none of them through a symbolic
// link, a mount point or "..": whoever may write below the root can't point the
// driver elsewhere, however fast they swap names. Before a result is returned, the
// folders are looked up again: if one was moved away meanwhile, what was made in
// it is reported as failed.
//
// A batch is made durable twice, once before the renames and once after, with one
// syncfs each, or, if it is small, with an fsync of each file and folder. If that
// fails, all of the batch has failed, and is written anew the next time: what a
// system has in memory after a failed sync need not be on its disk.
//
// # What is ours
//
// Ours is what the object's note says was made; and what bears the driver's mark,
// an extended attribute that holds the inode's number, so that a copy doesn't pass
// for the original. Folders that the driver makes bear it, for they are removed
// once they are empty; and files and links bear it that are made where nothing was
// noted yet, for a crash may come before the note is kept. So what is in the way in
// doubt needs no guessing: what bears the mark is the driver's own, complete since
// renames are, and is replaced or deleted; all else is somebody else's and left
// alone, unless it is exactly what shall be, or Options.Adopt says otherwise. Where
// there are no extended attributes, what is in the way in doubt counts as
// somebody else's, and of folders the notes of their files say which were made.
//
// Rejected: a list of folders and files beside the root (it has to be kept in step
// with them, durably, at a cost for each file), and taking over whatever is in the
// way in doubt (a crash at the wrong moment would cost an operator's file).
package file
