//go:build !linux

package onhost

import "path/filepath"

// short returns the path of the socket, which has to be short enough.
func short(dir string) (path string, done func(), err error) {
	return filepath.Join(dir, socketFile), func() {}, nil
}
