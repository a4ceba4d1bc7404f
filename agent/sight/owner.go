package sight

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
)

// checkOwner refuses an answerer that is neither root's nor the caller's. Anyone on the node can listen on the agent's
// address while the agent is down, and could tell that all is well.
func checkOwner(address string) error {
	uid, found, err := listenerOf(address)
	switch {
	case err != nil:
		return fmt.Errorf("finding out who listens on %s: %w", address, err)
	case !found: // but for its whole port, say, which the agent never does
		return fmt.Errorf("who answers on %s does not listen on that address, so it is not the agent", address)
	case uid != 0 && uid != os.Getuid():
		return fmt.Errorf("who answers on %s is user %d and not root, so it is not the agent", address, uid)
	}
	return nil
}

// listenerOf finds whose socket listens on a TCP address, in the network namespace of the caller, which is also where it connects.
func listenerOf(address string) (uid int, found bool, err error) {
	tcp, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return 0, false, err
	}
	table, want := "/proc/self/net/tcp6", tcp.IP.To16()
	if v4 := tcp.IP.To4(); v4 != nil {
		table, want = "/proc/self/net/tcp", v4
	}
	f, err := os.Open(table)
	if err != nil {
		return 0, false, err
	}
	defer f.Close()
	local := procAddress(want, tcp.Port)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		// sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid …
		fields := strings.Fields(lines.Text())
		const listening = "0A"
		if len(fields) < 8 || fields[1] != local || fields[3] != listening {
			continue
		}
		if uid, err = strconv.Atoi(fields[7]); err != nil {
			return 0, false, fmt.Errorf("reading %s: %w", table, err)
		}
		// With several, one that is not root's counts: which of them answers is the kernel's choice.
		if found = true; uid != 0 {
			return uid, true, nil
		}
	}
	return uid, found, nil
}

// procAddress is how /proc/net/tcp writes an address: words of four bytes in the machine's order.
func procAddress(ip net.IP, port int) string {
	var b []byte
	for ; len(ip) >= 4; ip = ip[4:] {
		b = binary.BigEndian.AppendUint32(b, binary.NativeEndian.Uint32(ip))
	}
	return strings.ToUpper(hex.EncodeToString(b)) + fmt.Sprintf(":%04X", port)
}
