package cluster

import (
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// addAddress gives this network namespace's loopback device one more address, under a label of its own. There is no
// kube-proxy: the API server listens on the address of the service `kubernetes` itself, and what runs on the node or
// on the pod network reaches it there.
func addAddress(label, address string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("adding the address %s: %w", address, err)
	}
	defer unix.Close(fd)
	// The mask comes second, and without it all of 10.0.0.0/8, pods included, would be this device.
	for _, set := range []struct {
		call  uint
		value string
	}{{unix.SIOCSIFADDR, address}, {unix.SIOCSIFNETMASK, "255.255.255.255"}} {
		request, err := unix.NewIfreq("lo:" + label)
		if err != nil {
			return fmt.Errorf("adding the address %s: %w", address, err)
		}
		if err := request.SetInet4Addr(net.ParseIP(set.value).To4()); err != nil {
			return fmt.Errorf("adding the address %s: %w", address, err)
		}
		if err := unix.IoctlIfreq(fd, set.call, request); err != nil {
			return fmt.Errorf("adding the address %s: %w", address, err)
		}
	}
	return nil
}
