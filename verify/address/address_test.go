package address

import (
	"net/netip"
	"testing"
)

func TestMetadataServicesInEveryGuise(t *testing.T) {
	for _, a := range []string{
		"169.254.169.254", "169.254.0.1", "::ffff:169.254.169.254", "64:ff9b::169.254.169.254", "fe80::1", "fe80::1%eth0", "ff02::1",
		"224.0.0.1", "fd00:ec2::254", "fd20:ce::254", "fd00:c1::a9fe:a9fe", "192.0.0.192", "100.100.100.200", "64:ff9b::100.100.100.200",
	} {
		if !IsLocalToLink(netip.MustParseAddr(a)) {
			t.Errorf("%s is let through", a)
		}
	}
	for _, a := range []string{"127.0.0.1", "::1", "10.0.0.1", "192.0.2.1", "2001:db8::1", "fd00::1", "100.100.100.201", "64:ff9b::10.0.0.1"} {
		if IsLocalToLink(netip.MustParseAddr(a)) {
			t.Errorf("%s is kept out", a)
		}
	}
}
