package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"espalier/internal/desired"
	"espalier/internal/wire"
	espalierv1 "espalier/proto/espalier/v1"
)

// ordersDocument is what a host is told besides its list of sets, for programs.
type ordersDocument struct {
	Host    string `json:"host"`
	Version uint64 `json:"version"`
	Paused  bool   `json:"paused"`
	Why     string `json:"why,omitempty"`
	Release string `json:"release,omitempty"` // the root whose deletions are let through
	// Deletions are those that this command has let through.
	Deletions uint64 `json:"deletions,omitempty"`
}

func (a *app) hostPauseCommand() *cobra.Command {
	return a.orderCommand(&cobra.Command{
		Use:   "pause HOST",
		Short: "Have a host make nothing true until it is resumed; what it mirrors is kept current",
		Long: "The host changes nothing any more, and corrects no drift, until 'espalier host resume'. It goes on mirroring, and\n" +
			"reports what it would do. A host that can't be reached is told once it can; one that was started anew, or has\n" +
			"lost its server, stays paused.",
		Example: "  espalier host pause web-01 -m 'the disk is being replaced'",
	}, espalierv1.SetOrdersRequest_ORDER_PAUSE)
}

func (a *app) hostResumeCommand() *cobra.Command {
	return a.orderCommand(&cobra.Command{
		Use:   "resume HOST",
		Short: "Have a host go on that was paused",
	}, espalierv1.SetOrdersRequest_ORDER_RESUME)
}

// orderCommand makes c the command that tells a host something.
func (a *app) orderCommand(c *cobra.Command, order espalierv1.SetOrdersRequest_Order) *cobra.Command {
	var why string
	c.Args = exactArgs("HOST")
	c.ValidArgsFunction = a.completeHost
	c.RunE = func(c *cobra.Command, args []string) error {
		if _, err := setName(args[0]); err != nil {
			return err
		}
		return a.order(c.Context(), &espalierv1.SetOrdersRequest{Host: args[0], Order: order, Why: why})
	}
	c.Flags().StringVarP(&why, "message", "m", "", "why, for the host, its status and the audit log")
	a.remote.addFlags(c)
	return c
}

func (a *app) hostReleaseCommand() *cobra.Command {
	var why string
	var yes bool
	c := &cobra.Command{
		Use:   "release HOST [ROOT]",
		Short: "Let a host carry out the deletions that it holds back",
		Long: "A host that would delete too many objects to get to its new state deletes none, and waits. This lets the deletions\n" +
			"through that lead to ROOT, as 'espalier status HOST' shows it, or its first 8 digits or more, and to no other\n" +
			"state. Without ROOT it says what waits; --yes lets that through.",
		Example: "  espalier host release web-01 3f9a1c0b52d7e846 -m 'the site moved'",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) < 1 || len(args) > 2 {
				return misusef("%s takes HOST [ROOT], got %s\nsee '%s --help'", c.CommandPath(), counted(uint64(len(args)), "argument"), c.CommandPath())
			}
			return nil
		},
		ValidArgsFunction: a.completeHost,
		RunE: func(c *cobra.Command, args []string) error {
			if _, err := setName(args[0]); err != nil {
				return err
			}
			root := ""
			if len(args) == 2 {
				var err error
				if root, err = rootPrefix(args[1]); err != nil {
					return err
				}
			}
			return a.release(c.Context(), args[0], root, yes, why)
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "release what waits, whatever root that is")
	c.Flags().StringVarP(&why, "message", "m", "", "why, for the audit log")
	a.remote.addFlags(c)
	return c
}

// rootPrefix returns the first digits of a root as they were given.
func rootPrefix(text string) (string, error) {
	root := strings.ToLower(text)
	if len(root) < minRootDigits || len(root) > 2*len(desired.Digest{}) || strings.Trim(root, "0123456789abcdef") != "" {
		return "", misusef("root %q: want at least the first %d of its %d hexadecimal digits", text, minRootDigits, 2*len(desired.Digest{}))
	}
	return root, nil
}

// minRootDigits is how much of a root has to be given: more than can be the same by
// chance.
const minRootDigits = 8

// release lets the deletions through that wait on a host, if they lead to a root
// that begins with those digits, or if it was asked for whatever waits.
func (a *app) release(ctx context.Context, host, root string, yes bool, why string) error {
	h, err := a.host(ctx, host)
	if err != nil {
		return err
	}
	c := h.Report.Applying
	switch {
	case c == nil || c.Guarded == 0:
		return refused{fmt.Errorf("%s holds no deletions back; there is nothing to release", host)}
	case root == "" && !yes:
		return refused{fmt.Errorf("%s holds back %s that lead to root %v, and leave %s; nothing was released; "+
			"name that root to let them through, or pass --yes", host, counted(c.Guarded, "deletion"), c.Desired, counted(c.Objects, "object"))}
	case !strings.HasPrefix(c.Desired.String(), root):
		return refused{fmt.Errorf("%s holds back %s that lead to root %v, not to %s; nothing was released", host, counted(c.Guarded, "deletion"), c.Desired, root)}
	}
	return a.order(ctx, &espalierv1.SetOrdersRequest{
		Host: host, Order: espalierv1.SetOrdersRequest_ORDER_RELEASE, Root: c.Desired[:], Why: why,
	})
}

// order tells a host something, and says so.
func (a *app) order(ctx context.Context, req *espalierv1.SetOrdersRequest) error {
	return a.remote.overFleet(func(client espalierv1.FleetServiceClient) error {
		resp, err := client.SetOrders(ctx, req)
		if err != nil {
			return wire.FromStatus(err)
		}
		list, err := wire.ListFromWire(resp.GetList())
		if err != nil {
			return err
		}
		return a.printOrder(req, list, resp.GetGuarded())
	})
}

func (a *app) printOrder(req *espalierv1.SetOrdersRequest, l desired.List, deletions uint64) error {
	if a.output == "json" {
		d := ordersDocument{Host: req.GetHost(), Version: l.Version, Paused: l.Paused, Why: l.Why, Deletions: deletions}
		if !l.Release.IsZero() {
			d.Release = l.Release.String()
		}
		return a.document(d)
	}
	text := ""
	switch req.GetOrder() {
	case espalierv1.SetOrdersRequest_ORDER_PAUSE:
		text = fmt.Sprintf("makes nothing true until 'espalier host resume %s'", req.GetHost())
	case espalierv1.SetOrdersRequest_ORDER_RESUME:
		text = "goes on"
	default:
		text = fmt.Sprintf("carries out %s, to root %v", counted(deletions, "deletion"), l.Release)
	}
	_, err := fmt.Fprintf(a.Out, "%s %s, once it has heard of it (version %d)\n", req.GetHost(), text, l.Version)
	return err
}
