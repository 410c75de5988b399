// Package egress decides which addresses runs may open connections to on behalf
// of those who write jobs.
//
// A job names an address, and its run connects from within the operator's
// network: without a rule, it could reach whatever trusts that network, such as
// a cloud's metadata service, a database without a password or the executor's
// own health probe. The rule is applied to the address of each single connection,
// after its name was resolved and right before the connection is made. So it
// holds for redirects too, and for a name that resolves differently the second
// time.
package egress

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"
)

const (
	dialTime  = 10 * time.Second // for one connection, all addresses of the name together
	keepAlive = 30 * time.Second
)

// Policy says which addresses may be connected to: those of the public internet,
// and the networks allowed beside it. The zero value allows no network beside
// it. Safe for concurrent use.
type Policy struct {
	// Networks are allowed although they are not public. IPv4 networks are not
	// written as IPv6 ones.
	Networks []netip.Prefix
	// Ports are the only ones allowed, also at public addresses; none means all.
	Ports []uint16
}

// RefusedError says that a policy does not allow a connection.
type RefusedError struct {
	Address netip.AddrPort
	Reason  string // continues "connections to <address> are refused: "
}

// Error names the address and the reason.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("connections to %s are refused: %s", e.Address, e.Reason)
}

// Check returns nil when the address may be connected to, or a *RefusedError.
func (p Policy) Check(address netip.AddrPort) error {
	if len(p.Ports) > 0 && !slices.Contains(p.Ports, address.Port()) {
		return &RefusedError{address, "this port is not allowed"}
	}
	// A zone only says through which interface.
	ip := address.Addr().WithZone("").Unmap()
	if slices.ContainsFunc(p.Networks, func(n netip.Prefix) bool { return n.Contains(ip) }) {
		return nil
	}
	if reason := special(ip); reason != "" {
		return &RefusedError{address, reason}
	}
	return nil
}

// Dialer returns a dialer that connects only to what the policy allows. Its
// errors wrap a *RefusedError where the policy was the reason.
func (p Policy) Dialer() *net.Dialer {
	return &net.Dialer{
		Timeout:   dialTime,
		KeepAlive: keepAlive,
		// Called with the address of the socket, whatever name led there.
		Control: func(_, address string, _ syscall.RawConn) error {
			target, err := netip.ParseAddrPort(address)
			if err != nil {
				return fmt.Errorf("connections to %q are refused: %w", address, err)
			}
			return p.Check(target)
		},
	}
}

// nat64 embeds an IPv4 address in its last four bytes: where there is only IPv6,
// every public IPv4 address is reached through it.
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// unicast is what of IPv6 has been given out for the public internet.
var unicast = netip.MustParsePrefix("2000::/3")

// reserved are the networks that are not the public internet, by the registries
// of special-purpose addresses, and what clouds keep at public ones. They do not
// overlap.
var reserved = []struct {
	network netip.Prefix
	what    string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "this host"},
	{netip.MustParsePrefix("10.0.0.0/8"), "a private network"},
	{netip.MustParsePrefix("100.64.0.0/10"), "a provider's internal network"},
	{netip.MustParsePrefix("127.0.0.0/8"), "a loopback address"},
	{netip.MustParsePrefix("168.63.129.16/32"), "a cloud's metadata service"},
	{netip.MustParsePrefix("169.254.0.0/16"), "a link-local address, as cloud metadata services have"},
	{netip.MustParsePrefix("172.16.0.0/12"), "a private network"},
	{netip.MustParsePrefix("192.0.0.0/24"), "reserved for protocols"},
	{netip.MustParsePrefix("192.0.2.0/24"), "reserved for documentation"},
	{netip.MustParsePrefix("192.88.99.0/24"), "a 6to4 relay"},
	{netip.MustParsePrefix("192.168.0.0/16"), "a private network"},
	{netip.MustParsePrefix("198.18.0.0/15"), "reserved for benchmarks"},
	{netip.MustParsePrefix("198.51.100.0/24"), "reserved for documentation"},
	{netip.MustParsePrefix("203.0.113.0/24"), "reserved for documentation"},
	{netip.MustParsePrefix("224.0.0.0/4"), "a multicast address"},
	{netip.MustParsePrefix("240.0.0.0/4"), "a reserved or broadcast address"},

	{netip.MustParsePrefix("::/128"), "this host"},
	{netip.MustParsePrefix("::1/128"), "a loopback address"},
	{netip.MustParsePrefix("fc00::/7"), "a private network, as cloud metadata services have"},
	{netip.MustParsePrefix("fe80::/10"), "a link-local address"},
	{netip.MustParsePrefix("ff00::/8"), "a multicast address"},
	{netip.MustParsePrefix("2001::/23"), "reserved for protocols"}, // Teredo, which hides an IPv4 address, among them
	{netip.MustParsePrefix("2001:db8::/32"), "reserved for documentation"},
	{netip.MustParsePrefix("2002::/16"), "a 6to4 address, which hides an IPv4 address"},
	{netip.MustParsePrefix("3fff::/20"), "reserved for documentation"},
}

// special says why an address is not of the public internet, or "" when it is.
func special(ip netip.Addr) string {
	for _, r := range reserved {
		if r.network.Contains(ip) {
			return "it is " + r.what
		}
	}
	switch {
	case !ip.IsValid():
		return "it is no address"
	case nat64.Contains(ip):
		bytes := ip.As16()
		return special(netip.AddrFrom4([4]byte(bytes[12:])))
	case ip.Is6() && !unicast.Contains(ip):
		return "it is not an address of the public internet"
	}
	return ""
}
