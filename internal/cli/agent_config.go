package cli

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"espalier/internal/apply"
	"espalier/internal/config"
	"espalier/store"
)

// configured returns what holds for the agent that a command runs: its flags are
// over the environment, and that is over the file, if there is one.
func (a *app) configured(c *cobra.Command, file string) (*config.Config, error) {
	conf := &config.Config{}
	if file != "" {
		var err error
		if conf, err = loadConfig(file); err != nil {
			return nil, err
		}
	}
	var flags config.Settings
	said := func(flag string) bool { return c.Flags().Changed(flag) }
	text := func(flag string) string { return c.Flags().Lookup(flag).Value.String() }
	flags.Host, flags.Data = text("host"), text("data")
	if said("server") {
		flags.Server = text("server")
	}
	if said("interval") {
		d, err := c.Flags().GetDuration("interval")
		if err != nil {
			return nil, err
		}
		flags.Interval = &d
	}
	conf.Settings = flags.Over(config.Environment(os.Getenv)).Over(conf.Settings)
	conf.Server = cmp.Or(conf.Server, defaultServer)
	if conf.Data == "" {
		return nil, misusef("--data is needed, or %s, or data in the file of --config: the folder that holds the mirror", config.EnvData)
	}
	a.remote.address = conf.Server
	return conf, conf.CheckRoots()
}

// loadConfig reads a file. What is wrong with it stands on lines of its own, as
// editors read them.
func loadConfig(path string) (*config.Config, error) {
	conf, err := config.Load(path)
	var problems config.Problems
	if errors.As(err, &problems) {
		return nil, fmt.Errorf("%s in the configuration:\n%w", counted(uint64(len(problems)), "problem"), err)
	}
	return conf, err
}

func (a *app) checkConfigCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check-config FILE",
		Short: "Show what an agent's configuration file comes to, or all that is wrong with it",
		Long: "Shows what an agent's configuration file comes to, or all that is wrong with it. Whether the\n" +
			"folders and programs that it names are there is not looked at, so that it can be checked on\n" +
			"another machine.",
		Args: exactArgs("FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			conf, err := loadConfig(args[0])
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.document(configOf(conf))
			}
			return a.printConfig(conf)
		},
	}
}

// configDocument is a configuration for programs, in the file's own words. What
// the file says nothing of is left out.
type configDocument struct {
	Host     string           `json:"host,omitempty"`
	Server   []string         `json:"server,omitempty"`
	Data     string           `json:"data,omitempty"`
	Interval string           `json:"interval,omitempty"`
	Drivers  []driverDocument `json:"drivers"`
	Apply    applyDocument    `json:"apply"`
	Scan     scanDocument     `json:"scan"`
}

// driverDocument has the fields of all drivers.
type driverDocument struct {
	Prefix      string            `json:"prefix"`
	Driver      string            `json:"driver"`
	Root        string            `json:"root,omitempty"`
	Adopt       bool              `json:"adopt,omitempty"`
	Unmanaged   []string          `json:"unmanaged,omitempty"`
	CrossMounts bool              `json:"cross_mounts,omitempty"`
	MaxWatches  int               `json:"max_watches,omitempty"`
	Logs        string            `json:"logs,omitempty"`
	LogBytes    int64             `json:"log_bytes,omitempty"`
	LogFiles    int               `json:"log_files,omitempty"`
	Command     []string          `json:"command,omitempty"`
	Batch       int               `json:"batch,omitempty"`
	Parallel    int               `json:"parallel,omitempty"`
	Timeout     string            `json:"timeout,omitempty"`
	Check       bool              `json:"check,omitempty"`
	Env         map[string]string `json:"env,omitempty"`
	Dir         string            `json:"dir,omitempty"`
}

type applyDocument struct {
	Mode      string           `json:"mode"`
	MaxDelete string           `json:"max_delete,omitempty"`
	Windows   []windowDocument `json:"windows,omitempty"`
	Rate      float64          `json:"rate,omitempty"`
	Timeout   string           `json:"timeout,omitempty"`
}

type windowDocument struct {
	Days  []string `json:"days,omitempty"`
	From  string   `json:"from"`
	Until string   `json:"until"`
}

type scanDocument struct {
	Interval         string  `json:"interval,omitempty"`
	Rate             float64 `json:"rate,omitempty"`
	ContentsInterval string  `json:"contents_interval,omitempty"`
	ContentsRate     float64 `json:"contents_rate,omitempty"`
	ContentsBytes    float64 `json:"contents_bytes,omitempty"`
}

func configOf(c *config.Config) configDocument {
	d := configDocument{Host: c.Host, Data: c.Data, Drivers: []driverDocument{}}
	if c.Server != "" {
		d.Server = strings.Split(c.Server, ",")
	}
	if c.Interval != nil {
		d.Interval = spanOf(*c.Interval)
	}
	for _, r := range c.Routes {
		d.Drivers = append(d.Drivers, driverOf(r))
	}
	p := c.Policy
	d.Apply = applyDocument{Mode: "enforce", MaxDelete: limitOf(p.MaxDelete), Rate: p.Rate, Timeout: spanOf(p.Timeout)}
	if p.Detect {
		d.Apply.Mode = "detect"
	}
	for _, w := range p.Windows {
		d.Apply.Windows = append(d.Apply.Windows, windowOf(w))
	}
	d.Scan = scanDocument{
		Interval: spanOf(p.ScanInterval), Rate: p.ScanRate,
		ContentsInterval: spanOf(p.ContentsInterval), ContentsRate: p.ContentsRate, ContentsBytes: p.ContentsBytes,
	}
	return d
}

func driverOf(r config.Route) driverDocument {
	d := driverDocument{Prefix: r.Prefix, Driver: r.Driver.Kind()}
	switch o := r.Driver.(type) {
	case *config.FileDriver:
		d.Root, d.Adopt, d.Unmanaged, d.CrossMounts, d.MaxWatches = o.Root, o.Adopt, o.Unmanaged, o.CrossMounts, o.MaxWatches
	case *config.ProcessDriver:
		d.Logs, d.LogBytes, d.LogFiles = o.Logs, o.LogBytes, o.LogFiles
	case *config.ExecDriver:
		d.Command, d.Batch, d.Parallel, d.Timeout = o.Command, o.Batch, o.Parallel, spanOf(o.Timeout)
		d.Check, d.Dir, d.Env = o.Check, o.Dir, map[string]string{}
		for _, v := range o.Env {
			name, value, _ := strings.Cut(v, "=")
			d.Env[name] = value
		}
	}
	return d
}

// spanOf returns a duration in the file's words; "" for one that it left out.
func spanOf(d time.Duration) string {
	switch {
	case d == 0:
		return ""
	case d < 0:
		return "none"
	default:
		return d.String()
	}
}

// limitOf returns a limit in the file's words.
func limitOf(l *store.DeleteLimit) string {
	switch {
	case l == nil:
		return ""
	case l.Count == math.MaxUint64:
		return "none"
	case l.Percent > 0:
		return fmt.Sprintf("%v%%", l.Percent)
	default:
		return fmt.Sprint(l.Count)
	}
}

func windowOf(w apply.Window) windowDocument {
	clock := func(d time.Duration) string { return fmt.Sprintf("%02d:%02d", d/time.Hour, d%time.Hour/time.Minute) }
	d := windowDocument{From: clock(w.From), Until: clock(w.Until)}
	for _, day := range w.Days {
		d.Days = append(d.Days, strings.ToLower(day.String()[:3]))
	}
	return d
}

// printConfig prints a configuration for a person.
func (a *app) printConfig(c *config.Config) error {
	d := configOf(c)
	t := a.table("FIELD", "VALUE")
	row := func(name, value, otherwise string) {
		if value == "" {
			value = "(" + otherwise + ")"
		}
		t.AppendRow(table.Row{name, printable(value)})
	}
	number := func(v float64, unit string) string {
		if v == 0 {
			return ""
		}
		return fmt.Sprintf("%v %s", v, unit)
	}
	row("host", d.Host, "what the certificate says")
	row("server", strings.Join(d.Server, ", "), "--server, ESPALIER_SERVER, or "+defaultServer)
	row("data", d.Data, "--data, or ESPALIER_DATA")
	row("interval", d.Interval, "what the server says")
	row("mode", d.Apply.Mode, "")
	row("max_delete", describeLimit(c.Policy.MaxDelete), "the default")
	row("windows", describeWindows(d.Apply.Windows), "at all times")
	row("rate", number(d.Apply.Rate, "objects/s"), "any number")
	row("timeout", d.Apply.Timeout, "the default")
	row("scan", d.Scan.Interval, "the default")
	row("scan rate", number(d.Scan.Rate, "objects/s"), "the default")
	row("contents", d.Scan.ContentsInterval, "the default")
	row("contents rate", number(d.Scan.ContentsRate, "objects/s"), "the default")
	row("contents bytes", bytesOf(d.Scan.ContentsBytes), "the default")
	if err := a.printTable(t); err != nil {
		return err
	}
	if len(d.Drivers) == 0 {
		_, err := fmt.Fprintln(a.Out, "\nThere are no drivers: the desired state is mirrored, and none of it made true.")
		return err
	}
	if _, err := fmt.Fprintln(a.Out); err != nil {
		return err
	}
	t = a.table("KEYS", "DRIVER", "OPTIONS")
	for _, r := range d.Drivers {
		t.AppendRow(table.Row{printable(r.Prefix + "*"), r.Driver, printable(describeDriver(r))})
	}
	return a.printTable(t)
}

func bytesOf(rate float64) string {
	if rate == 0 {
		return ""
	}
	return size(uint64(rate)) + "/s"
}

func describeLimit(l *store.DeleteLimit) string {
	switch {
	case l == nil:
		return ""
	case l.Count == math.MaxUint64:
		return "no limit"
	case l.Percent > 0:
		return fmt.Sprintf("%v%%, at least %s", l.Percent, counted(l.Count, "object"))
	default:
		return counted(l.Count, "object")
	}
}

func describeWindows(all []windowDocument) string {
	texts := make([]string, len(all))
	for i, w := range all {
		texts[i] = cmp.Or(strings.Join(w.Days, " "), "daily") + " " + w.From + " to " + w.Until
	}
	return strings.Join(texts, ", ")
}

// describeDriver returns a driver's options as the file has them.
func describeDriver(d driverDocument) string {
	var all []string
	option := func(name string, value any, said bool) {
		if said {
			all = append(all, fmt.Sprintf("%s: %v", name, value))
		}
	}
	option("root", d.Root, d.Root != "")
	option("adopt", d.Adopt, d.Adopt)
	option("unmanaged", d.Unmanaged, len(d.Unmanaged) > 0)
	option("cross_mounts", d.CrossMounts, d.CrossMounts)
	option("max_watches", d.MaxWatches, d.MaxWatches > 0)
	option("logs", d.Logs, d.Logs != "")
	option("log_bytes", d.LogBytes, d.LogBytes > 0)
	option("log_files", d.LogFiles, d.LogFiles > 0)
	option("command", d.Command, len(d.Command) > 0)
	option("batch", d.Batch, d.Batch > 0)
	option("parallel", d.Parallel, d.Parallel > 0)
	option("timeout", d.Timeout, d.Timeout != "")
	option("check", d.Check, d.Check)
	option("env", d.Env, len(d.Env) > 0)
	option("dir", d.Dir, d.Dir != "")
	return strings.Join(all, ", ")
}
