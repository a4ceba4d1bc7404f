package manager

import (
	"context"
	"fmt"
	"strings"

	systemd "github.com/coreos/go-systemd/v22/dbus"
)

// Unit is how systemd sees a unit. What does not apply to its kind is empty.
type Unit struct {
	Name string
	// Load is loaded, not-found, masked, bad-setting or error.
	Load string
	// Active is active, inactive, activating, deactivating, failed or reloading; Sub says it more finely.
	Active, Sub string
	// Enabled is the unit file's state: enabled, disabled, static, masked and others; empty if there is no file.
	Enabled string
	// NeedDaemonReload is set if files have changed since systemd read them.
	NeedDaemonReload bool
	// FragmentPath is the unit's file, DropInPaths are those that change it, as the host sees them.
	FragmentPath string
	DropInPaths  []string

	// Of a service.

	MainPID   int // 0: none runs
	NRestarts int
	// Result is success, or why it ended: exit-code, signal, watchdog, timeout, oom-kill and others.
	Result     string
	ExitStatus int    // of the main process that ended last
	StatusText string // what it says of itself
	// ExecStart are its commands, the program first. Variables are in them as the file has them.
	ExecStart        [][]string
	Environment      []string // "NAME=value"
	EnvironmentFiles []string // paths, in order; those that may be missing included

	// Of a socket.

	Listen []string // paths and addresses
}

// Unit tells how systemd sees a unit. One that is not on the host has Load "not-found".
func (m *Manager) Unit(ctx context.Context, name string) (u Unit, err error) {
	err = m.with(ctx, callTimeout, "asking for "+name, func(ctx context.Context, c *systemd.Conn) error {
		u, err = unitOf(ctx, c, name)
		return err
	})
	return u, err
}

func unitOf(ctx context.Context, c *systemd.Conn, name string) (Unit, error) {
	all, err := c.GetUnitPropertiesContext(ctx, name)
	if err != nil {
		return Unit{}, err
	}
	p := properties(all)
	u := Unit{
		Name: name, Load: p.text("LoadState"), Active: p.text("ActiveState"), Sub: p.text("SubState"), Enabled: p.text("UnitFileState"),
		FragmentPath: p.text("FragmentPath"), DropInPaths: p.texts("DropInPaths"),
	}
	u.NeedDaemonReload, _ = p["NeedDaemonReload"].(bool)
	switch {
	case strings.HasSuffix(name, ".service"):
		if all, err = c.GetUnitTypePropertiesContext(ctx, name, "Service"); err != nil {
			return Unit{}, err
		}
		u.service(all)
	case strings.HasSuffix(name, ".socket"):
		if all, err = c.GetUnitTypePropertiesContext(ctx, name, "Socket"); err != nil {
			return Unit{}, err
		}
		p := properties(all)
		u.Result, u.Listen = p.text("Result"), p.column("Listen", 1)
	}
	return u, nil
}

func (u *Unit) service(p properties) {
	u.MainPID, u.NRestarts, u.ExitStatus = p.number("MainPID"), p.number("NRestarts"), p.number("ExecMainStatus")
	u.Result, u.StatusText = p.text("Result"), p.text("StatusText")
	u.Environment, u.EnvironmentFiles = p.texts("Environment"), p.column("EnvironmentFiles", 0)
	rows, _ := p["ExecStart"].([][]any)
	for _, row := range rows {
		if len(row) < 2 {
			continue
		}
		if argv, ok := row[1].([]string); ok {
			u.ExecStart = append(u.ExecStart, argv)
		}
	}
}

// state says how the unit stands, in a few words.
func (u Unit) state() string {
	s := u.Active
	if u.Sub != "" && u.Sub != u.Active {
		s += " (" + u.Sub + ")"
	}
	if u.Result != "" && u.Result != "success" {
		s += ", result " + u.Result
	}
	if u.ExitStatus != 0 {
		s += fmt.Sprintf(", status %d", u.ExitStatus)
	}
	if u.StatusText != "" {
		s += fmt.Sprintf(", it says %.200q", u.StatusText)
	}
	return s
}

// properties are those of a D-Bus object.
type properties map[string]any

func (p properties) text(name string) string    { s, _ := p[name].(string); return s }
func (p properties) texts(name string) []string { s, _ := p[name].([]string); return s }

func (p properties) number(name string) int {
	switch n := p[name].(type) {
	case uint32:
		return int(n)
	case int32:
		return int(n)
	}
	return 0
}

// column is the text at place i of each row of a table.
func (p properties) column(name string, i int) (all []string) {
	rows, _ := p[name].([][]any)
	for _, row := range rows {
		if i < len(row) {
			if s, ok := row[i].(string); ok {
				all = append(all, s)
			}
		}
	}
	return all
}
