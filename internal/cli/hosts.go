package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"espalier/internal/desired"
	"espalier/internal/wire"
	espalierv1 "espalier/proto/espalier/v1"
)

// overFleet calls fn with the server's fleet service.
func (r *remote) overFleet(fn func(espalierv1.FleetServiceClient) error) error {
	conn, err := r.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	return fn(espalierv1.NewFleetServiceClient(conn))
}

// hostDocument is a host for programs.
type hostDocument struct {
	Host     desired.Name      `json:"host"`
	State    string            `json:"state"`
	Sets     []desired.Name    `json:"sets"`
	Version  uint64            `json:"list_version"`
	Left     []desired.Name    `json:"left,omitempty"`
	Seen     *time.Time        `json:"seen"` // null: it never polled
	Address  string            `json:"address,omitempty"`
	Agent    string            `json:"agent,omitempty"`
	Next     float64           `json:"next_poll_seconds"`
	Pace     string            `json:"pace,omitempty"`
	Held     []heldDocument    `json:"held"`
	Problems []desired.Problem `json:"problems,omitempty"`
	More     uint32            `json:"more_problems,omitempty"`
	// Progress is State of making true what is mirrored, and Applying what the host
	// says of it; absent: it only mirrors.
	Progress string               `json:"progress"`
	Applying *desired.Convergence `json:"applying,omitempty"`
	Paused   bool                 `json:"paused"` // as it is told
	Why      string               `json:"why,omitempty"`
	Release  string               `json:"release,omitempty"` // the root whose deletions it is told to carry out
}

// heldDocument is a set as a host holds it.
type heldDocument struct {
	Set      desired.Name `json:"set"`
	Revision uint64       `json:"revision"`
	Root     string       `json:"root,omitempty"` // the first 16 digits
	Head     uint64       `json:"head"`           // that the server is at
	Current  bool         `json:"current"`
	Damaged  bool         `json:"damaged,omitempty"`
}

func hostOf(h wire.HostInfo) hostDocument {
	d := hostDocument{
		Host: h.Name, State: h.State.String(), Sets: h.List.Sets, Version: h.List.Version, Left: h.List.Left, Address: h.Address,
		Agent: h.Report.Agent, Next: h.Next.Seconds(), Pace: h.Pace, Held: []heldDocument{}, Problems: h.Report.Problems, More: h.Report.More,
		Progress: h.Progress().String(), Applying: h.Report.Applying, Paused: h.List.Paused, Why: h.List.Why,
	}
	if !h.List.Release.IsZero() {
		d.Release = h.List.Release.String()
	}
	if !h.At.IsZero() {
		at := h.At.UTC()
		d.Seen = &at
	}
	for _, s := range h.Sets {
		held := heldDocument{Set: s.Name, Revision: s.Number, Head: s.Head, Current: s.Current, Damaged: s.Gone}
		if s.Number > 0 {
			held.Root = fmt.Sprintf("%016x", s.Root)
		}
		d.Held = append(d.Held, held)
	}
	return d
}

func (a *app) hostsCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "hosts",
		Short: "List the hosts: what each mirrors, and how it fares",
		Args:  exactArgs(),
		RunE:  func(c *cobra.Command, _ []string) error { return a.hosts(c.Context()) },
	}
	a.remote.addFlags(c)
	return c
}

func (a *app) hosts(ctx context.Context) error {
	if a.output == "json" {
		return a.eachHost(ctx, func(h wire.HostInfo) error { return a.document(hostOf(h)) })
	}
	t := a.hostTable()
	err := a.eachHost(ctx, func(h wire.HostInfo) error {
		appendHost(t, h)
		return nil
	})
	switch {
	case err != nil:
		return err
	case t.Length() == 0:
		return a.printNoHosts()
	}
	return a.printTable(t)
}

func (a *app) printNoHosts() error {
	_, err := fmt.Fprintln(a.Out, "no host has joined yet: 'espalier token create --host NAME' lets one in")
	return err
}

func (a *app) hostTable() table.Writer {
	t := a.table("HOST", "STATE", "APPLYING", "SETS", "REVISION", "LAST POLL", "NEXT AFTER", "WHY THEN", "PROBLEM")
	numbers(t, 5)
	return t
}

func appendHost(t table.Writer, h wire.HostInfo) {
	var sets, revisions []string
	for _, name := range h.List.Sets {
		sets = append(sets, string(name))
	}
	for _, s := range h.Sets {
		at := fmt.Sprint(s.Number)
		if !s.Current && s.Head > 0 {
			at += fmt.Sprintf(" of %d", s.Head)
		}
		revisions = append(revisions, at)
	}
	t.AppendRow(table.Row{
		h.Name, h.State.String(), progressOf(h), shortened(strings.Join(sets, " "), 40), shortened(strings.Join(revisions, ", "), 24), ago(h), waits(h.Next), h.Pace,
		shortened(printable(problemOf(h)), 60),
	})
}

// problemOf returns the first of a host's problems, or of the objects that it could
// not make true, and how many there are.
func problemOf(h wire.HostInfo) string {
	first, n := "", uint64(0)
	if all := h.Report.Problems; len(all) > 0 {
		first, n = all[0].Text, uint64(len(all))+uint64(h.Report.More)
	} else if c := h.Report.Applying; c != nil && len(c.Failures) > 0 {
		first, n = c.Failures[0].Key+": "+c.Failures[0].Error, c.Failed
	}
	if n > 1 {
		return fmt.Sprintf("(1 of %d) %s", n, first)
	}
	return first
}

// shortened returns text, cut to n characters.
func shortened(text string, n int) string {
	if r := []rune(text); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return text
}

func ago(h wire.HostInfo) string {
	if h.At.IsZero() {
		return "never"
	}
	return waits(h.Age) + " ago"
}

// waits returns d for people: exact to a tenth of a second, or to a second.
func waits(d time.Duration) string {
	switch {
	case d <= 0:
		return "0s"
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// eachHost calls fn with each host, by name, as the server lists them.
func (a *app) eachHost(ctx context.Context, fn func(wire.HostInfo) error) error {
	return a.remote.overFleet(func(client espalierv1.FleetServiceClient) error {
		return eachNamed(func(after string) (page []wire.HostInfo, more bool, err error) {
			resp, err := client.ListHosts(ctx, &espalierv1.ListHostsRequest{After: after})
			if err != nil {
				return nil, false, wire.FromStatus(err)
			}
			for _, m := range resp.GetHosts() {
				h, err := wire.HostFromWire(m)
				if err != nil {
					return nil, false, err
				}
				page = append(page, h)
			}
			return page, resp.GetMore(), nil
		}, func(h wire.HostInfo) desired.Name { return h.Name }, fn)
	})
}

func (a *app) hostSetsCommand() *cobra.Command {
	var maxDelete, why string
	var dryRun bool
	c := &cobra.Command{
		Use:   "sets HOST [SET...]",
		Short: "Show which sets a host mirrors, or say which it shall",
		Long: "Without SET it shows the list of sets of a host. With them, they become the list, in that order: where two\n" +
			"have an object of the same key, the later wins. A host for which nobody has made a list mirrors the set of its\n" +
			"own name, which stays only if it is named.\n\nThe objects of a set that leaves the list go from the host, so --max-delete guards against it.",
		Example: "  espalier host sets web-01 base web web-01",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return misusef("%s takes HOST [SET...], got no arguments\nsee '%s --help'", c.CommandPath(), c.CommandPath())
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			limit, err := parseMaxDelete(maxDelete)
			if err != nil {
				return err
			}
			for _, arg := range args {
				if _, err := setName(arg); err != nil {
					return err
				}
			}
			if len(args) == 1 {
				return a.showList(c.Context(), args[0])
			}
			return a.setList(c.Context(), &espalierv1.SetListRequest{
				Host: args[0], Sets: args[1:], MaxDelete: wire.LimitToWire(limit), DryRun: dryRun, Why: why,
			})
		},
	}
	c.Flags().StringVar(&maxDelete, "max-delete", "10%", "most objects that may leave the host: a number, or a percentage of all that it has (at least 10)")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be done, and do nothing")
	c.Flags().StringVarP(&why, "message", "m", "", "why, for the audit log")
	a.remote.addFlags(c)
	return c
}

// listDocument is a host's list of sets for programs.
type listDocument struct {
	Host    string         `json:"host"`
	Version uint64         `json:"version"`
	Sets    []desired.Name `json:"sets"`
	Left    []desired.Name `json:"left,omitempty"`
	Deleted *uint64        `json:"deleted,omitempty"` // objects that leave the host
	Objects *uint64        `json:"objects,omitempty"` // that it had
	Refused string         `json:"refused,omitempty"` // why a dry run would be
}

func (a *app) showList(ctx context.Context, host string) error {
	h, err := a.host(ctx, host)
	if err != nil {
		return err
	}
	if a.output == "json" {
		return a.document(listDocument{Host: host, Version: h.List.Version, Sets: h.List.Sets, Left: h.List.Left})
	}
	for _, name := range h.List.Sets {
		fmt.Fprintln(a.Out, name)
	}
	return nil
}

// host asks the server about a host.
func (a *app) host(ctx context.Context, name string) (h wire.HostInfo, err error) {
	err = a.remote.overFleet(func(client espalierv1.FleetServiceClient) error {
		resp, err := client.GetHost(ctx, &espalierv1.GetHostRequest{Host: name})
		if err != nil {
			return wire.FromStatus(err)
		}
		h, err = wire.HostFromWire(resp.GetHost())
		return err
	})
	return h, err
}

func (a *app) setList(ctx context.Context, req *espalierv1.SetListRequest) error {
	return a.remote.overFleet(func(client espalierv1.FleetServiceClient) error {
		resp, err := client.SetList(ctx, req)
		if err != nil {
			return wire.FromStatus(err)
		}
		list, err := wire.ListFromWire(resp.GetList())
		if err != nil {
			return err
		}
		if err := a.printList(req, list, resp); err != nil || resp.GetRefused() == "" {
			return err
		}
		return refused{fmt.Errorf("this would be refused: %s; --max-delete allows it", resp.GetRefused())}
	})
}

func (a *app) printList(req *espalierv1.SetListRequest, list desired.List, resp *espalierv1.SetListResponse) error {
	deleted, objects := resp.GetDeleted(), resp.GetObjects()
	if a.output == "json" {
		return a.document(listDocument{
			Host: req.GetHost(), Version: list.Version, Sets: list.Sets, Left: list.Left, Deleted: &deleted, Objects: &objects, Refused: resp.GetRefused(),
		})
	}
	verb := "mirrors"
	if req.GetDryRun() {
		verb = "would mirror"
	}
	_, err := fmt.Fprintf(a.Out, "%s %s, in that order: %s (version %d); %s of %s leave it\n",
		req.GetHost(), verb, strings.Join(req.GetSets(), ", "), list.Version, grouped(deleted), counted(objects, "object"))
	return err
}
