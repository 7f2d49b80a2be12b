package peer

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
)

// BuildEspalier builds the program of the repository that this one was made
// from, as "make build" does. The Go command has to be in a folder of this
// module.
func BuildEspalier(ctx context.Context, path string) error {
	dir, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "espalier").Output()
	if err != nil {
		return fmt.Errorf("where espalier's sources are: %w", err)
	}
	build := exec.CommandContext(ctx, "go", "build", "-C", string(bytes.TrimSpace(dir)), "-o", path, "./cmd/espalier")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build espalier: %w: %s", err, out)
	}
	return nil
}

// EspalierVersion asks the program for its version.
func EspalierVersion(ctx context.Context, program string) (string, error) {
	out, err := exec.CommandContext(ctx, program, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w", program, err)
	}
	return string(bytes.TrimSpace(bytes.TrimPrefix(out, []byte("espalier ")))), nil
}
