package desired

// The attributes of objects that stand for files and symbolic links: what a
// folder is published with, and what the driver of files makes of it.
const (
	// ModeAttribute holds a file's permission bits, octal: "0644".
	ModeAttribute = "mode"
	// SymlinkAttribute holds what a symbolic link points to; its value is empty.
	SymlinkAttribute = "symlink"
	// OwnerAttribute holds whose a file is, as "user:group", names or numbers.
	OwnerAttribute = "owner"
)
