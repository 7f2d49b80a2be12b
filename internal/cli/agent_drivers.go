package cli

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"

	"espalier/agent"
	"espalier/agent/driver"
	"espalier/agent/driver/exec"
	"espalier/agent/driver/file"
	"espalier/agent/driver/process"
	"espalier/internal/config"
	"espalier/internal/desired"
)

// routes opens the drivers that a configuration names.
func routes(conf *config.Config, host desired.Name, log *slog.Logger) ([]agent.Route, error) {
	var all []agent.Route
	for _, r := range conf.Routes {
		d, err := openDriver(r, conf.Data, host, log)
		if err != nil {
			return nil, fmt.Errorf("driver of prefix %q: %w", r.Prefix, err)
		}
		version, err := json.Marshal(driverOf(r))
		if err != nil {
			return nil, err
		}
		all = append(all, agent.Route{
			Prefix: r.Prefix, Name: r.Driver.Label(), Driver: d, Version: fmt.Sprintf("%x", sha256.Sum256(version)),
		})
	}
	return all, nil
}

func openDriver(r config.Route, data string, host desired.Name, log *slog.Logger) (driver.Driver, error) {
	switch o := r.Driver.(type) {
	case *config.FileDriver:
		return file.New(file.Options{
			Root: o.Root, Adopt: o.Adopt, Unmanaged: o.Unmanaged, CrossMounts: o.CrossMounts, MaxWatches: o.MaxWatches, Logger: log,
		})
	case *config.ProcessDriver:
		dir, err := filepath.Abs(filepath.Join(data, "process", url.PathEscape(r.Prefix)+"+")) // no prefix is a folder of its own, too
		if err != nil {
			return nil, err
		}
		return process.New(process.Options{Dir: dir, LogDir: o.Logs, LogBytes: o.LogBytes, LogFiles: o.LogFiles, Logger: log})
	case *config.ExecDriver:
		return exec.New(exec.Options{
			Command: o.Command, Batch: o.Batch, Parallel: o.Parallel, Timeout: o.Timeout, Check: o.Check,
			Env: o.Env, Dir: o.Dir, Host: host, Logger: log,
		})
	default:
		return nil, fmt.Errorf("%w driver %T", desired.ErrInvalid, o)
	}
}
