package server_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// raw is a client that says in HTTP/2 what no gRPC would.
type raw struct {
	net.Conn
	*http2.Framer
	encoder *hpack.Encoder
	block   bytes.Buffer
	next    uint32 // stream
}

// raw returns a connection that has said hello.
func (w *secured) raw(t *testing.T, config *tls.Config, settings ...http2.Setting) *raw {
	t.Helper()
	conn := handshake(t, w, config)
	t.Cleanup(func() { conn.Close() })
	r := &raw{Conn: conn, Framer: http2.NewFramer(conn, conn), next: 1}
	r.encoder = hpack.NewEncoder(&r.block)
	r.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := r.WriteSettings(settings...); err != nil {
		t.Fatal(err)
	}
	return r
}

// headers returns the encoded headers of a call.
func (r *raw) headers(path string, more ...string) []byte {
	r.block.Reset()
	all := append([]string{
		":method", "POST", ":scheme", "https", ":authority", "server", ":path", path,
		"content-type", "application/grpc", "te", "trailers",
	}, more...)
	for i := 0; i < len(all); i += 2 {
		_ = r.encoder.WriteField(hpack.HeaderField{Name: all[i], Value: all[i+1]}) // into memory
	}
	return bytes.Clone(r.block.Bytes())
}

// open begins a call and returns its stream.
func (r *raw) open(path string, more ...string) (uint32, error) {
	id := r.next
	r.next += 2
	return id, r.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: r.headers(path, more...), EndHeaders: true})
}

// message returns a gRPC message.
func message(flag byte, body []byte) []byte {
	n := len(body)
	return append([]byte{flag, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, body...)
}

// send ends a call with those bytes, which the window has to hold.
func (r *raw) send(id uint32, body []byte) error {
	for len(body) > 16<<10 {
		if err := r.WriteData(id, false, body[:16<<10]); err != nil {
			return err
		}
		body = body[16<<10:]
	}
	return r.WriteData(id, true, body)
}

// status returns the grpc-status that a call ends with; what ends it otherwise
// is "reset" or "closed".
func (r *raw) status(id uint32) string {
	for {
		f, err := r.ReadFrame()
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			for _, h := range f.Fields {
				if h.Name == "grpc-status" && f.StreamID == id {
					return h.Value
				}
			}
		case *http2.RSTStreamFrame:
			if f.StreamID == id {
				return "reset"
			}
		case *http2.GoAwayFrame:
			return "closed"
		default:
			if err != nil {
				return "closed"
			}
		}
	}
}
