package exec

import (
	"bytes"
	"io"
	"os"
	"testing"
)

// TestLastCall: whatever was written before the last call is read, wherever the
// reader is meanwhile, and though the pipe's other end stays open.
func TestLastCall(t *testing.T) {
	want := bytes.Repeat([]byte("0123456789abcdef"), 2048)
	for range 2000 {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		d := &drain{file: r}
		read := make(chan []byte, 1)
		go func() {
			all, err := io.ReadAll(d)
			if err != nil {
				t.Error(err)
			}
			read <- all
		}()
		if _, err := w.Write(want); err != nil {
			t.Fatal(err)
		}
		d.lastCall()
		if got := <-read; !bytes.Equal(got, want) {
			t.Fatalf("%d bytes were read, want %d", len(got), len(want))
		}
		r.Close()
		w.Close()
	}
}
