package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"

	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/internal/wire"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/store"
)

func (a *app) headCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "head SET",
		Short: "Show the current revision of a set",
		Args:  exactArgs("SET"),
		RunE: func(c *cobra.Command, args []string) error {
			name, err := setName(args[0])
			if err != nil {
				return err
			}
			return a.remote.operate(func(client espalierv1.OperatorServiceClient) error {
				resp, err := client.GetHead(c.Context(), &espalierv1.GetHeadRequest{Set: string(name)})
				if err != nil {
					return wire.FromStatus(err)
				}
				head, err := wire.HeadFromWire(resp.GetHead())
				if err != nil {
					return err
				}
				if a.output == "json" {
					return a.document(struct {
						headDocument
						Forked bool `json:"forked,omitempty"`
					}{headOf(name, head), resp.GetForked()})
				}
				if resp.GetForked() {
					fmt.Fprintf(a.Err, "espalier: a host holds another history of %s; nothing is committed to it: see 'espalier epoch --help'\n", name)
				}
				_, err = fmt.Fprintf(a.Out, "%s is at revision %d of epoch %s: %s, %s\nroot %s\n",
					name, head.Number, head.Epoch, counted(head.Objects, "object"), size(head.Bytes), head.Root)
				return err
			})
		},
	}
	a.remote.addFlags(c)
	return c
}

func (a *app) setsCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "sets",
		Short: "List the sets; 'sets delete SET' deletes one",
		Args:  exactArgs(),
		RunE:  func(c *cobra.Command, _ []string) error { return a.sets(c.Context()) },
	}
	a.remote.addFlags(c)
	c.AddCommand(a.deleteSetCommand())
	return c
}

func (a *app) sets(ctx context.Context) error {
	if a.output == "json" {
		return a.eachSet(ctx, func(h store.NamedHead) error {
			d := struct {
				headDocument
				Forked bool   `json:"forked,omitempty"`
				Error  string `json:"error,omitempty"`
			}{headDocument: headOf(h.Name, h.Head), Forked: h.Forked}
			if h.Err != nil {
				d.headDocument, d.Error = headDocument{Set: h.Name}, h.Err.Error()
			}
			return a.document(d)
		})
	}
	t := a.table("SET", "REVISION", "OBJECTS", "SIZE", "ROOT", "PROBLEM")
	numbers(t, 2, 3, 4)
	err := a.eachSet(ctx, func(h store.NamedHead) error {
		if h.Err != nil {
			t.AppendRow([]any{h.Name, "", "", "", "", printable(h.Err.Error())})
			return nil
		}
		problem := ""
		if h.Forked {
			problem = "a host holds another history: see 'espalier epoch'"
		}
		t.AppendRow([]any{h.Name, h.Head.Number, grouped(h.Head.Objects), size(h.Head.Bytes), h.Head.Root.String()[:16], problem})
		return nil
	})
	if err != nil {
		return err
	}
	return a.printTable(t)
}

// setsPage is how many sets are asked for at once.
const setsPage = 1000

// eachSet calls fn with each set, by name, as the server lists them.
func (a *app) eachSet(ctx context.Context, fn func(store.NamedHead) error) error {
	return a.remote.operate(func(client espalierv1.OperatorServiceClient) error {
		return eachNamed(func(after string) (page []store.NamedHead, more bool, err error) {
			resp, err := client.ListSets(ctx, &espalierv1.ListSetsRequest{After: after, Limit: setsPage})
			if err != nil {
				return nil, false, wire.FromStatus(err)
			}
			for _, m := range resp.GetSets() {
				h, err := wire.SetFromWire(m)
				if err != nil {
					return nil, false, err
				}
				page = append(page, h)
			}
			return page, resp.GetMore(), nil
		}, func(h store.NamedHead) desired.Name { return h.Name }, fn)
	})
}

// eachNamed calls fn with all that a server lists by name, a page after the other.
// list returns what comes after a name, and whether there is more.
func eachNamed[T any](list func(after string) (page []T, more bool, err error), nameOf func(T) desired.Name, fn func(T) error) error {
	for after, more := desired.Name(""), true; more; {
		page, further, err := list(string(after))
		if err != nil {
			return err
		}
		for _, row := range page {
			if nameOf(row) <= after {
				return fmt.Errorf("%w: %s is listed after %s", delta.ErrProtocol, nameOf(row), after)
			}
			after = nameOf(row)
			if err := fn(row); err != nil {
				return err
			}
		}
		if more = further; more && len(page) == 0 {
			return fmt.Errorf("%w: a page without anything", delta.ErrProtocol)
		}
	}
	return nil
}

func (a *app) deleteSetCommand() *cobra.Command {
	var expect, why string
	var yes bool
	c := &cobra.Command{
		Use:   "delete SET --expect REV | --yes",
		Short: "Delete a set; agents that mirror it keep enforcing what they have",
		Args:  exactArgs("SET"),
		RunE: func(c *cobra.Command, args []string) error {
			name, err := setName(args[0])
			if err != nil {
				return err
			}
			at, err := parseExpect(expect)
			if err != nil {
				return err
			}
			return a.remote.operate(func(client espalierv1.OperatorServiceClient) error {
				if at == nil && !yes {
					return holdBack(c.Context(), client, name)
				}
				req := &espalierv1.DeleteSetRequest{Set: string(name), Why: why, Expect: wire.ExpectToWire(at)}
				resp, err := client.DeleteSet(c.Context(), req)
				if err != nil {
					return wire.FromStatus(err)
				}
				return a.printDeleted(name, resp.GetHead())
			})
		},
	}
	c.Flags().StringVar(&expect, "expect", "", "delete it if it is at this revision: a number, or epoch:number")
	c.Flags().BoolVar(&yes, "yes", false, "delete it whatever it holds")
	c.Flags().StringVarP(&why, "message", "m", "", "why, for the server's log")
	a.remote.addFlags(c)
	return c
}

// holdBack refuses to delete a set that nobody has confirmed, and says what is
// at stake.
func holdBack(ctx context.Context, client espalierv1.OperatorServiceClient, name desired.Name) error {
	resp, err := client.GetHead(ctx, &espalierv1.GetHeadRequest{Set: string(name)})
	if err = wire.FromStatus(err); errors.Is(err, store.ErrQuarantined) {
		return refused{fmt.Errorf("%w; nothing was deleted; pass --yes to delete it all the same", err)}
	}
	if err != nil {
		return err
	}
	head, err := wire.HeadFromWire(resp.GetHead())
	if err != nil {
		return err
	}
	return refused{fmt.Errorf("set %s holds %s at revision %d; nothing was deleted; "+
		"pass --expect %d to delete it as it is, or --yes to delete it whatever it holds",
		name, counted(head.Objects, "object"), head.Number, head.Number)}
}

// printDeleted says what head a set had that is deleted; nil: it wasn't to be
// read.
func (a *app) printDeleted(name desired.Name, m *espalierv1.Head) (err error) {
	var head desired.Head
	if m != nil {
		if head, err = wire.HeadFromWire(m); err != nil {
			return err
		}
	}
	if a.output == "json" {
		return a.document(headOf(name, head))
	}
	_, err = fmt.Fprintf(a.Out, "deleted set %s, %s at revision %d\n", name, counted(head.Objects, "object"), head.Number)
	return err
}

// numbers aligns the columns of those numbers to the right.
func numbers(t table.Writer, columns ...int) {
	configs := make([]table.ColumnConfig, len(columns))
	for i, n := range columns {
		configs[i] = table.ColumnConfig{Number: n, Align: text.AlignRight, AlignHeader: text.AlignRight}
	}
	t.SetColumnConfigs(configs)
}

// printTable prints a table, without the columns that are empty.
func (a *app) printTable(t table.Writer) error {
	t.SetOutputMirror(nil)
	t.SuppressEmptyColumns()
	t.SuppressTrailingSpaces()
	_, err := fmt.Fprintln(a.Out, t.Render())
	return err
}

// printable returns text of another's as one line that leaves a terminal alone.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, text)
}
