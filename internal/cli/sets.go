package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"espalier/internal/wire"
	espalierv1 "espalier/proto/espalier/v1"
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
					return a.document(headOf(name, head))
				}
				_, err = fmt.Fprintf(a.Out, "%s is at revision %d of epoch %s: %s objects, %s\nroot %s\n",
					name, head.Number, head.Epoch, grouped(head.Objects), size(head.Bytes), head.Root)
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
		RunE: func(c *cobra.Command, _ []string) error {
			return a.remote.operate(func(client espalierv1.OperatorServiceClient) error {
				resp, err := client.ListSets(c.Context(), &espalierv1.ListSetsRequest{})
				if err != nil {
					return wire.FromStatus(err)
				}
				return a.printSets(resp.GetSets())
			})
		},
	}
	a.remote.addFlags(c)
	c.AddCommand(a.deleteSetCommand())
	return c
}

func (a *app) printSets(sets []*espalierv1.SetInfo) error {
	type document struct {
		headDocument
		Error string `json:"error,omitempty"`
	}
	t := a.table("SET", "REVISION", "OBJECTS", "SIZE", "ROOT", "")
	for _, s := range sets {
		name, err := setName(s.GetName())
		if err != nil {
			return err
		}
		d := document{headDocument: headDocument{Set: name}, Error: s.GetError()}
		if s.GetError() == "" {
			head, err := wire.HeadFromWire(s.GetHead())
			if err != nil {
				return err
			}
			d.headDocument = headOf(name, head)
		}
		if a.output == "json" {
			if err := a.document(d); err != nil {
				return err
			}
			continue
		}
		if d.Error != "" {
			t.AppendRow([]any{name, "", "", "", "", d.Error})
			continue
		}
		t.AppendRow([]any{name, d.Revision, grouped(d.Objects), size(d.Bytes), d.Root[:16], ""})
	}
	if a.output != "json" {
		t.Render()
	}
	return nil
}

func (a *app) deleteSetCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "delete SET",
		Short: "Delete a set; agents that mirror it keep enforcing what they have",
		Args:  exactArgs("SET"),
		RunE: func(c *cobra.Command, args []string) error {
			name, err := setName(args[0])
			if err != nil {
				return err
			}
			return a.remote.operate(func(client espalierv1.OperatorServiceClient) error {
				_, err := client.DeleteSet(c.Context(), &espalierv1.DeleteSetRequest{Set: string(name)})
				if err != nil {
					return wire.FromStatus(err)
				}
				fmt.Fprintf(a.Err, "deleted set %s\n", name)
				return nil
			})
		},
	}
	a.remote.addFlags(c)
	return c
}
