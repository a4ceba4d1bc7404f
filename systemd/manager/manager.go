// Package manager asks a host's systemd to do things, over systemd's own D-Bus interface.
//
// It works from a container that has the host's /run mounted: no nsenter, no systemctl, no process of the host. Every
// call has a bound in time, every job is waited for, and one that failed says why. What systemd answers is bounded by
// D-Bus itself (128 MiB a message) and is root's own word; it is not a stranger's.
//
// The interface is org.freedesktop.systemd1(5). It refuses to talk to anything but a socket below the host root that
// it was given: to no bus that the environment names.
package manager

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

const (
	// callTimeout bounds one question, reloading all units included.
	callTimeout = 30 * time.Second
	// jobTimeout bounds one job. systemd's own bound for a start or a stop is 90 s where a unit says no other.
	jobTimeout = 2 * time.Minute
)

// The sockets on which systemd answers, the first that is there is used: systemd's own, and the system bus, which is missing on
// a host without a D-Bus daemon.
const (
	private = "run/systemd/private"
	bus     = "run/dbus/system_bus_socket"
)

// Manager talks to one host's systemd. It may be used concurrently. Each call makes a connection of its own, because systemd
// drops those that it has when it is executed anew.
type Manager struct {
	root string
}

// Dial returns a Manager for the host whose root folder is hostRoot ("/" or "" on the host itself) once its systemd has
// answered.
func Dial(ctx context.Context, hostRoot string) (*Manager, error) {
	if hostRoot == "" {
		hostRoot = "/"
	}
	m := &Manager{hostRoot}
	if _, err := m.Version(ctx); err != nil {
		return nil, err
	}
	return m, nil
}

// Version is the host's systemd's, such as 252.
func (m *Manager) Version(ctx context.Context) (version int, err error) {
	err = m.with(ctx, callTimeout, "asking for its version", func(_ context.Context, c *systemd.Conn) error {
		text, err := c.GetManagerProperty("Version")
		if err != nil {
			return err
		}
		version, err = parseVersion(text)
		return err
	})
	return version, err
}

// parseVersion reads what distributions make of a version: "252 (252.38-1~deb12u1)", "v255.4-1ubuntu8".
func parseVersion(s string) (int, error) {
	digits := strings.TrimLeft(strings.Trim(s, `"`), "v")
	if i := strings.IndexFunc(digits, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
		digits = digits[:i]
	}
	n, err := strconv.Atoi(digits)
	if err != nil || n <= 0 {
		return 0, fmt.Errorf("%.80q is no version of systemd", s)
	}
	return n, nil
}

// Reload has systemd read all unit files again.
func (m *Manager) Reload(ctx context.Context) error {
	return m.with(ctx, callTimeout, "reading unit files again", func(ctx context.Context, c *systemd.Conn) error {
		return c.ReloadContext(ctx)
	})
}

// Enable makes the links by which units are started at boot, and has systemd see them. The units' files must be on the
// host.
func (m *Manager) Enable(ctx context.Context, units ...string) error {
	return m.with(ctx, callTimeout, "enabling "+strings.Join(units, ", "), func(ctx context.Context, c *systemd.Conn) error {
		if _, _, err := c.EnableUnitFilesContext(ctx, units, false, true); err != nil {
			return err
		}
		return c.ReloadContext(ctx)
	})
}

// Disable removes those links, and has systemd see it. Units that are not there are no error.
func (m *Manager) Disable(ctx context.Context, units ...string) error {
	return m.with(ctx, callTimeout, "disabling "+strings.Join(units, ", "), func(ctx context.Context, c *systemd.Conn) error {
		for _, u := range units { // one by one: the first that is missing would keep the others enabled
			if _, err := c.DisableUnitFilesContext(ctx, []string{u}, false); err != nil && !isError(err, noUnit, noUnitFile) {
				return err
			}
		}
		return c.ReloadContext(ctx)
	})
}

// Stop stops a unit, and waits until it has stopped. A unit that is not there is no error.
func (m *Manager) Stop(ctx context.Context, unit string) error {
	err := m.job(ctx, "stopping", unit, (*systemd.Conn).StopUnitContext)
	if isError(err, noUnit) {
		return nil
	}
	return err
}

// Restart stops a unit if it runs, starts it, and waits until it runs: with Type=notify until it said that it is ready.
func (m *Manager) Restart(ctx context.Context, unit string) error {
	return m.job(ctx, "restarting", unit, (*systemd.Conn).RestartUnitContext)
}

// ResetFailed lets systemd forget that a unit failed. A unit that is not there is no error.
func (m *Manager) ResetFailed(ctx context.Context, unit string) error {
	return m.with(ctx, callTimeout, "resetting "+unit, func(ctx context.Context, c *systemd.Conn) error {
		err := c.ResetFailedUnitContext(ctx, unit)
		if isError(err, noUnit) {
			return nil
		}
		return err
	})
}

type jobStarter func(c *systemd.Conn, ctx context.Context, unit, mode string, done chan<- string) (int, error)

func (m *Manager) job(ctx context.Context, doing, unit string, start jobStarter) error {
	return m.with(ctx, jobTimeout, doing+" "+unit, func(ctx context.Context, c *systemd.Conn) error {
		done := make(chan string, 1)
		if _, err := start(c, ctx, unit, "replace", done); err != nil {
			return err
		}
		select {
		case result := <-done:
			if result == "done" {
				return nil
			}
			return m.why(ctx, c, unit, result)
		case <-ctx.Done():
			return fmt.Errorf("the job has not ended: %w", context.Cause(ctx))
		}
	})
}

// why says why a job failed, in the words of systemctl.
func (m *Manager) why(ctx context.Context, c *systemd.Conn, unit, result string) error {
	u, err := unitOf(ctx, c, unit)
	if err != nil {
		return fmt.Errorf("the job ended as %q, and why cannot be told: %w", result, err)
	}
	why := fmt.Sprintf("the job ended as %q; the unit is %s", result, u.state())
	if u.Load != "loaded" {
		why += ", its file is " + u.Load
	}
	return errors.New(why + "; see: journalctl -u " + unit)
}

// What systemd calls a unit that is not there, and a file of one.
const (
	noUnit     = "org.freedesktop.systemd1.NoSuchUnit"
	noUnitFile = "org.freedesktop.DBus.Error.FileNotFound"
)

// isError reports whether err is one that systemd answered, by one of the names.
func isError(err error, names ...string) bool {
	var de dbus.Error
	return errors.As(err, &de) && slices.Contains(names, de.Name)
}

// with connects, calls f and disconnects, within limit.
func (m *Manager) with(ctx context.Context, limit time.Duration, doing string, f func(context.Context, *systemd.Conn) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer within %v", limit))
	defer cancel()
	c, err := systemd.NewConnection(func() (*dbus.Conn, error) { return m.dial(ctx) })
	if err != nil {
		return fmt.Errorf("connecting to systemd: %w", err)
	}
	defer c.Close()
	if err := f(ctx, c); err != nil {
		return fmt.Errorf("systemd: %s: %w", doing, err)
	}
	return nil
}

// dial connects to systemd itself, or else to the bus.
func (m *Manager) dial(ctx context.Context) (*dbus.Conn, error) {
	c, err := m.dialSocket(ctx, private, false)
	if err == nil {
		return c, nil
	}
	c, busErr := m.dialSocket(ctx, bus, true)
	if busErr != nil {
		return nil, errors.Join(err, busErr)
	}
	return c, nil
}

func (m *Manager) dialSocket(ctx context.Context, path string, hello bool) (_ *dbus.Conn, err error) {
	var d net.Dialer
	socket, err := d.DialContext(ctx, "unix", filepath.Join(m.root, path))
	if err != nil {
		return nil, err
	}
	// The library waits for the other side's greeting without end.
	if end, ok := ctx.Deadline(); ok {
		if err := socket.SetDeadline(end); err != nil {
			return nil, errors.Join(err, socket.Close())
		}
	}
	c, err := dbus.NewConn(&whole{Conn: socket}, dbus.WithContext(ctx))
	if err != nil {
		return nil, errors.Join(err, socket.Close())
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s: %w", path, errors.Join(err, c.Close()))
		}
	}()
	// The one way that systemd offers: the kernel tells it who calls.
	if err := c.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Getuid()))}); err != nil {
		return nil, fmt.Errorf("authenticating: %w", err)
	}
	if hello { // systemd itself wants none
		if err := c.Hello(); err != nil {
			return nil, fmt.Errorf("greeting the bus: %w", err)
		}
	}
	return c, nil
}
