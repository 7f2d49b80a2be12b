//go:build !linux

package bench

// checkRoom is not needed: there is no driver to measure.
func checkRoom(string, int, int) error { return nil }

func syncFileSystem(string) error { return nil }
