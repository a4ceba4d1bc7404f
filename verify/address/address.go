// Package address knows the addresses to which no stranger's word may lead a node: a redirect, or a name that
// resolves to one only this second. They are those that are local to a link, where clouds serve a machine its own
// credentials (RFC 3927, RFC 4291), and the few of the same kind that clouds have put elsewhere.
package address

import (
	"net/netip"
	"slices"
)

// metadata are clouds' metadata addresses that are not link-local: of AWS, Google, Oracle and Alibaba.
var metadata = []netip.Addr{
	netip.MustParseAddr("fd00:ec2::254"),
	netip.MustParseAddr("fd20:ce::254"),
	netip.MustParseAddr("fd00:c1::a9fe:a9fe"),
	netip.MustParseAddr("192.0.0.192"),
	netip.MustParseAddr("100.100.100.200"),
}

// nat64 is the prefix behind which a translator would reach IPv4 addresses.
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// IsLocalToLink says whether a is one of them, in whatever way it is written.
func IsLocalToLink(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if nat64.Contains(a) {
		b := a.As16()
		a = netip.AddrFrom4([4]byte(b[12:]))
	}
	return a.IsLinkLocalUnicast() || a.IsLinkLocalMulticast() || slices.Contains(metadata, a)
}
