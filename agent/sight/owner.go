package sight

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
)

// checkOwner refuses who listens on an address, or on all of the node's, and is not whom the server may be.
func (s Server) checkOwner(address string) error {
	tcp, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return err
	}
	users, err := listenersOf(tcp.IP, tcp.Port)
	if err == nil && len(users) == 0 {
		// A socket of both families is listed with IPv6's.
		for _, every := range []net.IP{net.IPv4zero, net.IPv6zero} {
			var more []int
			if more, err = listenersOf(every, tcp.Port); err != nil {
				break
			}
			users = append(users, more...)
		}
	}
	switch {
	case err != nil:
		return fmt.Errorf("finding out who listens on %s: %w", address, err)
	case len(users) == 0: // but for its whole port, say
		return fmt.Errorf("who answers on %s does not listen on that address, so it is not who was asked", address)
	}
	// With several, all count: which of them answers is the kernel's choice.
	for _, user := range users {
		if !slices.Contains([]int{0, os.Getuid(), s.User}, user) {
			return fmt.Errorf("who answers on %s is user %d and not root, so it is not who was asked", address, user)
		}
	}
	return nil
}

// listenersOf are the users whose sockets listen on exactly this address, in the network namespace of the caller, which is also
// where it connects.
func listenersOf(ip net.IP, port int) (users []int, err error) {
	table, want := "/proc/thread-self/net/tcp6", ip.To16()
	if v4 := ip.To4(); v4 != nil {
		table, want = "/proc/thread-self/net/tcp", v4
	}
	f, err := os.Open(table)
	if os.IsNotExist(err) {
		return nil, nil // a node without IPv6
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	local := procAddress(want, port)
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid …
		fields := strings.Fields(lines.Text())
		const listening = "0A"
		if len(fields) < 8 || fields[1] != local || fields[3] != listening {
			continue
		}
		user, err := strconv.Atoi(fields[7])
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", table, err)
		}
		users = append(users, user)
	}
	return users, lines.Err()
}

// procAddress is how /proc/net/tcp writes an address: words of four bytes in the machine's order.
func procAddress(ip net.IP, port int) string {
	var b []byte
	for ; len(ip) >= 4; ip = ip[4:] {
		b = binary.BigEndian.AppendUint32(b, binary.NativeEndian.Uint32(ip))
	}
	return strings.ToUpper(hex.EncodeToString(b)) + fmt.Sprintf(":%04X", port)
}
