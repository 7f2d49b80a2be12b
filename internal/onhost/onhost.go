// Package onhost answers what somebody on the host asks of its agent, without a
// server: how far it is, what has failed, what it would do; and has it pause, go
// on, or delete as much as a state asks for. It is HTTP with JSON over a socket in
// the agent's folder, which only its owner may open.
package onhost

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"espalier/internal/apply"
	"espalier/internal/desired"
)

// Every bound of this package: whoever asks is the owner of the folder, and may
// still be mistaken.
const (
	// socketFile is the socket's name in the agent's folder.
	socketFile = "agent.sock"
	// maxRequest bounds the body of a request.
	maxRequest = 16 << 10
	// readTimeout bounds the reading of one.
	readTimeout = 10 * time.Second
	// maxLine bounds a line of an answer: a key and a short text.
	maxLine = 1 << 20
)

// ErrNotRunning is what errors match that say that no agent answers in a folder.
var ErrNotRunning = errors.New("no agent is running")

// Agent is who is asked. Its methods are safe for concurrent use.
type Agent interface {
	// Convergence returns how far the host is; false: the agent only mirrors.
	Convergence() (desired.Convergence, bool)
	Failures() []desired.Failure
	Plan() iter.Seq2[apply.Step, error]
	Pause(why string) error
	Resume() error
	Release(root desired.Digest) error
}

// Status is the answer to how far a host is.
type Status struct {
	Host desired.Name `json:"host"`
	// Applying is how far it is; nil: its agent only mirrors.
	Applying *desired.Convergence `json:"applying,omitempty"`
}

// order is what a host is told.
type order struct {
	Why  string `json:"why,omitempty"`
	Root string `json:"root,omitempty"`
}

// refusal is the answer to what can't be done.
type refusal struct {
	Error string `json:"error"`
}

// planned is a line of a plan. An error is the last.
type planned struct {
	apply.Step
	Error string `json:"error,omitempty"`
}

// Serve answers for an agent until ctx is done. The folder is the agent's, which
// holds its lock: a socket that is there is left over.
func Serve(ctx context.Context, dir string, host desired.Name, a Agent) error {
	l, err := listen(dir)
	if err != nil {
		return fmt.Errorf("listen for who asks on this host: %w", err)
	}
	s := &http.Server{
		Handler: handler(host, a), ReadHeaderTimeout: readTimeout, ReadTimeout: readTimeout, MaxHeaderBytes: maxRequest,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("answer who asks on this host: %w", err)
	}
	return nil
}

// listen makes the socket. Its name is taken relative to the folder, whose path may
// be longer than a socket's may be.
func listen(dir string) (net.Listener, error) {
	path, done, err := short(dir)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // the short path is gone by then
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func handler(host desired.Name, a Agent) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		s := Status{Host: host}
		if c, ok := a.Convergence(); ok {
			s.Applying = &c
		}
		answer(w, http.StatusOK, s)
	})
	mux.HandleFunc("GET /failures", func(w http.ResponseWriter, _ *http.Request) {
		e := json.NewEncoder(w)
		for _, f := range a.Failures() {
			if e.Encode(f) != nil {
				return // nobody reads on
			}
		}
	})
	mux.HandleFunc("GET /plan", func(w http.ResponseWriter, _ *http.Request) {
		e := json.NewEncoder(w)
		for step, err := range a.Plan() {
			line := planned{Step: step}
			if err != nil {
				line.Error = err.Error()
			}
			if e.Encode(line) != nil || err != nil {
				return
			}
		}
	})
	mux.HandleFunc("POST /pause", carryOut(func(o order) error { return a.Pause(o.Why) }))
	mux.HandleFunc("POST /resume", carryOut(func(order) error { return a.Resume() }))
	mux.HandleFunc("POST /release", carryOut(func(o order) error {
		root, err := desired.ParseDigest(o.Root)
		if err != nil {
			return err
		}
		return a.Release(root)
	}))
	return mux
}

// carryOut answers a request that tells the host something.
func carryOut(do func(order) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var o order
		err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest)).Decode(&o)
		if err == nil {
			err = do(o)
		}
		if err != nil {
			answer(w, http.StatusConflict, refusal{err.Error()})
			return
		}
		answer(w, http.StatusOK, struct{}{})
	}
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // else nobody reads it
}

// ErrRefused is what errors match that are the agent's own word.
var ErrRefused = errors.New("the agent refuses")

// Client asks the agent that runs in a folder.
type Client struct {
	dir  string
	http http.Client
}

// NewClient returns a Client for the agent whose folder is dir.
func NewClient(dir string) *Client {
	c := &Client{dir: dir}
	c.http.Transport = &http.Transport{DialContext: c.dial, DisableKeepAlives: true}
	return c
}

func (c *Client) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	path, done, err := short(c.dir)
	if err != nil {
		return nil, err
	}
	defer done()
	return new(net.Dialer).DialContext(ctx, "unix", path)
}

// Status asks how far the host is.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	body, err := c.ask(ctx, http.MethodGet, "status", nil)
	if err != nil {
		return s, err
	}
	defer body.Close()
	if err := json.NewDecoder(io.LimitReader(body, maxLine)).Decode(&s); err != nil {
		return s, fmt.Errorf("the agent's answer: %w", err)
	}
	return s, nil
}

// Failures asks for all objects that have failed, by key.
func (c *Client) Failures(ctx context.Context) iter.Seq2[desired.Failure, error] {
	return lines[desired.Failure](ctx, c, "failures")
}

// Plan asks for what would be done.
func (c *Client) Plan(ctx context.Context) iter.Seq2[apply.Step, error] {
	return func(yield func(apply.Step, error) bool) {
		for line, err := range lines[planned](ctx, c, "plan") {
			if err == nil && line.Error != "" {
				err = fmt.Errorf("%w: %s", ErrRefused, line.Error)
			}
			if !yield(line.Step, err) || err != nil {
				return
			}
		}
	}
}

// Pause has the host stay as it is.
func (c *Client) Pause(ctx context.Context, why string) error {
	return c.tell(ctx, "pause", order{Why: why})
}

// Resume ends a Pause.
func (c *Client) Resume(ctx context.Context) error { return c.tell(ctx, "resume", order{}) }

// Release lets the deletions through that lead to a host root.
func (c *Client) Release(ctx context.Context, root desired.Digest) error {
	return c.tell(ctx, "release", order{Root: root.String()})
}

func (c *Client) tell(ctx context.Context, what string, o order) error {
	body, err := c.ask(ctx, http.MethodPost, what, o)
	if err != nil {
		return err
	}
	return body.Close()
}

// ask sends a request and returns the answer, which the caller closes.
func (c *Client) ask(ctx context.Context, method, what string, v any) (io.ReadCloser, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://agent/"+what, bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.explain(ctx, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	var no refusal
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxLine)).Decode(&no); err != nil || no.Error == "" {
		return nil, fmt.Errorf("the agent's answer: %s", resp.Status)
	}
	return nil, fmt.Errorf("%w: %s", ErrRefused, no.Error)
}

// explain says why the agent could not be asked.
func (c *Client) explain(ctx context.Context, err error) error {
	var path *fs.PathError
	switch {
	case ctx.Err() != nil:
		return err
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("ask the agent in %s: %w: run this as the agent's user", c.dir, fs.ErrPermission)
	case errors.As(err, &path): // there is not even a folder
		return fmt.Errorf("%w in %s: %w", ErrNotRunning, c.dir, path.Err)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("%w in %s", ErrNotRunning, c.dir)
	}
	return fmt.Errorf("ask the agent in %s: %w", c.dir, errors.Unwrap(err))
}

// lines asks for what comes as a document a line.
func lines[T any](ctx context.Context, c *Client, what string) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		body, err := c.ask(ctx, http.MethodGet, what, nil)
		if err != nil {
			yield(none, err)
			return
		}
		defer body.Close()
		for d := json.NewDecoder(body); ; {
			var v T
			err := d.Decode(&v)
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(none, fmt.Errorf("the agent's answer: %w", err))
				return
			}
			if !yield(v, nil) {
				return
			}
		}
	}
}
