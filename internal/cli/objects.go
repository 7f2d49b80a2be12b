package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/internal/wire"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/store"
)

func (a *app) setCommand() *cobra.Command {
	var file, why string
	c := &cobra.Command{
		Use:   "set SET KEY VALUE | set SET KEY -f FILE|-",
		Short: "Set one object's value",
		Long: "Set one object's value. What else there is to an object that exists already, its attributes and\n" +
			"what it comes after, stays as it is; 'apply' sets that.",
		Args: func(c *cobra.Command, args []string) error {
			if file == "" {
				return exactArgs("SET", "KEY", "VALUE")(c, args)
			}
			return exactArgs("SET", "KEY")(c, args)
		},
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.remote.check(); err != nil { // before what may take long
				return err
			}
			name, err := setName(args[0])
			if err != nil {
				return err
			}
			if err := desired.CheckKey([]byte(args[1])); err != nil {
				return misuse{err}
			}
			value, err := a.value(args, file)
			if err != nil {
				return err
			}
			return a.remote.operate(func(client espalierv1.OperatorServiceClient) error {
				resp, err := setValue(c.Context(), client, name, args[1], value, why)
				if err != nil {
					return err
				}
				return a.printCommit(name, resp)
			})
		},
	}
	c.Flags().StringVarP(&file, "file", "f", "", "take the value from this file; -: from standard input")
	c.Flags().StringVarP(&why, "message", "m", "", "why, for the set's history")
	a.remote.addFlags(c)
	return c
}

// setAttempts bounds how often a value is set anew because others have committed
// meanwhile. One of those who try at once gets through each time.
const setAttempts = 64

// setValue gives an object a value and leaves the rest of it as it is: it
// commits against the revision at which it read that.
func setValue(
	ctx context.Context, client espalierv1.OperatorServiceClient, set desired.Name, key string, value []byte, why string,
) (*espalierv1.CommitResponse, error) {
	for attempt := 1; ; attempt++ {
		expect, object, err := readObject(ctx, client, set, key)
		if err != nil {
			return nil, err
		}
		object.Value = value
		envelope, err := desired.Encode(object)
		if err != nil {
			return nil, misuse{err}
		}
		terms := &espalierv1.CommitTerms{Set: string(set), Why: why, RequestId: rand.Text(), Expect: wire.PositionToWire(expect)}
		resp, err := commit(ctx, client, terms, []desired.Change{{Key: []byte(key), Envelope: envelope}})
		if !errors.Is(err, store.ErrConflict) || attempt == setAttempts {
			return resp, err
		}
	}
}

// readObject returns an object, which may have nothing but its key yet, and a
// position of its set at which it was not older than that; the zero one stands
// for a set that does not exist.
func readObject(
	ctx context.Context, client espalierv1.OperatorServiceClient, set desired.Name, key string,
) (at desired.Position, o desired.Object, err error) {
	o.Key = key
	resp, err := client.GetHead(ctx, &espalierv1.GetHeadRequest{Set: string(set)})
	if err = wire.FromStatus(err); errors.Is(err, store.ErrNotFound) {
		return at, o, nil
	}
	if err != nil {
		return at, o, err
	}
	head, err := wire.HeadFromWire(resp.GetHead())
	if err != nil {
		return at, o, err
	}
	at = head.Position
	object, err := client.GetObject(ctx, &espalierv1.GetObjectRequest{Set: string(set), Key: []byte(key)})
	if err = wire.FromStatus(err); errors.Is(err, wire.ErrNoObject) || errors.Is(err, store.ErrNotFound) {
		return at, o, nil
	}
	if err != nil {
		return at, o, err
	}
	o, err = wire.ObjectFromWire(key, object.GetEnvelope())
	return at, o, err
}

// value returns the value that a command was given.
func (a *app) value(args []string, file string) ([]byte, error) {
	if file == "" {
		return []byte(args[2]), nil
	}
	in := a.In
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	value, err := io.ReadAll(io.LimitReader(in, desired.MaxValueBytes+1))
	if err == nil && len(value) > desired.MaxValueBytes {
		err = misusef("the value has more than %d bytes, the most that is allowed", desired.MaxValueBytes)
	}
	return value, err
}

func (a *app) deleteCommand() *cobra.Command {
	var why string
	c := &cobra.Command{
		Use:   "delete SET KEY...",
		Short: "Delete objects",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) < 2 {
				return exactArgs("SET", "KEY...")(c, args)
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			name, err := setName(args[0])
			if err != nil {
				return err
			}
			keys := slices.Compact(slices.Sorted(slices.Values(args[1:])))
			changes := make([]desired.Change, len(keys))
			for i, key := range keys {
				if err := desired.CheckKey([]byte(key)); err != nil {
					return misuse{err}
				}
				changes[i].Key = []byte(key)
			}
			return a.remote.operate(func(client espalierv1.OperatorServiceClient) error {
				if err := a.sayMissing(c.Context(), client, name, keys); err != nil {
					return err
				}
				terms := &espalierv1.CommitTerms{Set: string(name), Why: why, RequestId: rand.Text()}
				resp, err := commit(c.Context(), client, terms, changes)
				if err != nil {
					return err
				}
				return a.printCommit(name, resp)
			})
		},
	}
	c.Flags().StringVarP(&why, "message", "m", "", "why, for the set's history")
	a.remote.addFlags(c)
	return c
}

// sayMissing tells which of the keys to delete are not there.
func (a *app) sayMissing(ctx context.Context, client espalierv1.OperatorServiceClient, set desired.Name, keys []string) error {
	for _, key := range keys {
		_, err := client.GetObject(ctx, &espalierv1.GetObjectRequest{Set: string(set), Key: []byte(key)})
		if err = wire.FromStatus(err); errors.Is(err, wire.ErrNoObject) {
			fmt.Fprintf(a.Err, "%q is not in set %s\n", key, set)
		} else if err != nil {
			return err
		}
	}
	return nil
}

// commit sends a few changes, which ascend by key.
func commit(
	ctx context.Context, client espalierv1.OperatorServiceClient, terms *espalierv1.CommitTerms, changes []desired.Change,
) (*espalierv1.CommitResponse, error) {
	stream, err := client.Commit(ctx)
	if err != nil {
		return nil, wire.FromStatus(err)
	}
	frames := delta.NewFrameWriter(delta.NewCodec())
	req := &espalierv1.CommitRequest{Terms: terms}
	for len(changes) > 0 || req.Terms != nil {
		for len(changes) > 0 && !frames.Full() {
			if err := frames.Add(changes[0]); err != nil {
				return nil, err
			}
			changes = changes[1:]
		}
		req.Frame = frames.Frame()
		if stream.Send(req) != nil {
			break // CloseAndRecv says why
		}
		req = &espalierv1.CommitRequest{}
	}
	resp, err := stream.CloseAndRecv()
	return resp, wire.FromStatus(err)
}

// commitDocument is the outcome of a commit for programs.
type commitDocument struct {
	Set       desired.Name `json:"set"`
	Epoch     string       `json:"epoch"`
	Revision  uint64       `json:"revision"`
	Root      string       `json:"root"`
	Objects   uint64       `json:"objects"`
	Created   uint64       `json:"created"`
	Updated   uint64       `json:"updated"`
	Deleted   uint64       `json:"deleted"`
	Unchanged uint64       `json:"unchanged"`
	DryRun    bool         `json:"dry_run,omitempty"` // nothing was done: it is what would be
}

func (a *app) printCommit(set desired.Name, r *espalierv1.CommitResponse) error {
	head, err := wire.HeadFromWire(r.GetHead())
	if err != nil {
		return err
	}
	d := commitDocument{
		Set: set, Epoch: head.Epoch.String(), Revision: head.Number, Root: head.Root.String(), Objects: head.Objects,
		Created: r.GetCreated(), Updated: r.GetUpdated(), Deleted: r.GetDeleted(), Unchanged: r.GetUnchanged(),
	}
	say := a.sayCommit
	if a.output == "json" {
		say = func(d commitDocument) error { return a.document(d) }
	}
	if err := say(d); err != nil {
		return fmt.Errorf("%s is at revision %d, which the commit led to, but: %w", set, d.Revision, err)
	}
	return nil
}

func (a *app) sayCommit(d commitDocument) error {
	what := fmt.Sprintf("%s created, %s updated, %s deleted", grouped(d.Created), grouped(d.Updated), grouped(d.Deleted))
	if d.Created+d.Updated+d.Deleted == 0 {
		what = "nothing to change"
	}
	_, err := fmt.Fprintf(a.Out, "%s is at revision %d: %s; %s\n", d.Set, d.Revision, what, counted(d.Objects, "object"))
	return err
}

func (a *app) getCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "get SET KEY",
		Short: "Print one object's value",
		Args:  exactArgs("SET", "KEY"),
		RunE: func(c *cobra.Command, args []string) error {
			name, err := setName(args[0])
			if err != nil {
				return err
			}
			return a.remote.operate(func(client espalierv1.OperatorServiceClient) error {
				resp, err := client.GetObject(c.Context(), &espalierv1.GetObjectRequest{Set: string(name), Key: []byte(args[1])})
				if err != nil {
					return wire.FromStatus(err)
				}
				o, err := wire.ObjectFromWire(args[1], resp.GetEnvelope())
				if err != nil {
					return err
				}
				if a.output == "json" {
					return a.document(documentOf(o))
				}
				_, err = a.Out.Write(o.Value)
				return err
			})
		},
	}
	a.remote.addFlags(c)
	return c
}

func (a *app) listCommand() *cobra.Command {
	var prefix string
	c := &cobra.Command{
		Use:   "list SET",
		Short: "List the keys of a set",
		Args:  exactArgs("SET"),
		RunE: func(c *cobra.Command, args []string) error {
			name, err := setName(args[0])
			if err != nil {
				return err
			}
			return a.remote.operate(func(client espalierv1.OperatorServiceClient) error {
				req := &espalierv1.ListObjectsRequest{Set: string(name), Prefix: []byte(prefix)}
				stream, err := client.ListObjects(c.Context(), req)
				if err != nil {
					return wire.FromStatus(err)
				}
				return a.printKeys(stream)
			})
		},
	}
	c.Flags().StringVar(&prefix, "prefix", "", "only keys that start with this")
	a.remote.addFlags(c)
	return c
}

func (a *app) printKeys(stream espalierv1.OperatorService_ListObjectsClient) error {
	type document struct {
		Key    string `json:"key"`
		Digest string `json:"digest"`
	}
	codec := delta.NewCodec()
	return eachMessage(stream, func(resp *espalierv1.ListObjectsResponse) error {
		changes, err := codec.DecodeFrame(resp.GetFrame())
		if err != nil {
			return err
		}
		for _, c := range changes {
			if a.output == "json" {
				err = a.document(document{Key: string(c.Key), Digest: fmt.Sprintf("%x", c.Envelope[1:])})
			} else {
				_, err = fmt.Fprintf(a.Out, "%s\n", c.Key)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}
