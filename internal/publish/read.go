package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"espalier/internal/spool"
)

// ReadOptions configures the readers of inputs; the zero value works.
type ReadOptions struct {
	// KeyPrefix goes before every key, those in "after" included, as it is: one
	// that stands for a folder ends in a slash.
	KeyPrefix string
	// TempDir is the folder for temporary files, which needs room for twice the
	// input; empty: that of the system.
	TempDir string
	// Progress, unless nil, is told how far the input has been read.
	Progress Progress

	total uint64 // bytes of the input; 0: it is not known
}

// Input is what a set, or the part of it under a prefix, shall hold: objects,
// read whole and put in order.
type Input struct {
	objects *spool.Sorted
	prefix  string
	tempDir string
}

func newInput(w *spool.Writer, o ReadOptions) (*Input, error) {
	objects, err := w.Finish()
	if err != nil {
		return nil, err
	}
	return &Input{objects: objects, prefix: o.KeyPrefix, tempDir: o.TempDir}, nil
}

// Len returns the number of objects.
func (in *Input) Len() int { return in.objects.Len() }

// Bytes returns what keys and envelopes add up to.
func (in *Input) Bytes() uint64 { return in.objects.Bytes() }

// Close gives the input up, and its temporary files.
func (in *Input) Close() error { return in.objects.Close() }

// Read reads the input that path names: a file of JSONL, a folder, or with "-"
// what stdin holds, as JSONL.
func Read(ctx context.Context, path string, stdin io.Reader, o ReadOptions) (*Input, error) {
	in, err := read(ctx, path, stdin, o)
	if err != nil {
		if path == "-" {
			path = "standard input"
		}
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return in, nil
}

func read(ctx context.Context, path string, stdin io.Reader, o ReadOptions) (*Input, error) {
	if path == "-" {
		return ReadJSONL(ctx, stdin, o)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, pathless(err)
	}
	if info.IsDir() {
		return ReadFolder(ctx, path, o)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, pathless(err)
	}
	defer f.Close()
	if info.Mode().IsRegular() {
		o.total = uint64(info.Size())
	}
	return ReadJSONL(ctx, f, o)
}

// pathless returns what is wrong without the path, which the caller names.
func pathless(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
