package egress

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
)

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		address string
		refused string // part of the reason; "" means allowed
	}{
		{"93.184.215.14", ""},
		{"1.1.1.1", ""},
		{"9.255.255.255", ""},
		{"11.0.0.0", ""},
		{"100.63.255.255", ""},
		{"100.128.0.0", ""},
		{"172.15.255.255", ""},
		{"172.32.0.0", ""},
		{"192.0.1.1", ""},
		{"223.255.255.255", ""},
		{"168.63.129.17", ""},
		{"2606:4700:4700::1111", ""},
		{"::ffff:1.1.1.1", ""},
		{"64:ff9b::1.1.1.1", ""},

		{"0.0.0.0", "this host"},
		{"0.1.2.3", "this host"},
		{"10.0.0.1", "private"},
		{"100.64.0.1", "internal"},
		{"100.100.100.200", "internal"}, // metadata of one cloud
		{"127.0.0.1", "loopback"},
		{"127.255.255.254", "loopback"},
		{"168.63.129.16", "metadata"}, // another's
		{"169.254.169.254", "metadata"},
		{"169.254.170.2", "metadata"},
		{"172.16.0.1", "private"},
		{"172.31.255.255", "private"},
		{"192.0.0.192", "reserved"}, // one more's
		{"192.0.2.1", "documentation"},
		{"192.88.99.1", "6to4"},
		{"192.168.1.1", "private"},
		{"198.18.0.1", "benchmarks"},
		{"198.19.255.255", "benchmarks"},
		{"198.51.100.7", "documentation"},
		{"203.0.113.7", "documentation"},
		{"224.0.0.1", "multicast"},
		{"240.0.0.1", "reserved"},
		{"255.255.255.255", "broadcast"},
		{"::", "this host"},
		{"::1", "loopback"},
		{"::7f00:1", "not an address of the public internet"}, // IPv4-compatible
		{"::ffff:127.0.0.1", "loopback"},
		{"::ffff:169.254.169.254", "metadata"},
		{"64:ff9b::a9fe:a9fe", "metadata"},
		{"64:ff9b::10.0.0.1", "private"},
		{"64:ff9b:1::a9fe:a9fe", "not an address of the public internet"},
		{"2001::1", "protocols"}, // Teredo
		{"2001:db8::1", "documentation"},
		{"2002:a9fe:a9fe::1", "6to4"},
		{"3fff::1", "documentation"},
		{"4000::1", "not an address of the public internet"},
		{"5f00::1", "not an address of the public internet"},
		{"fd00:ec2::254", "metadata"},
		{"fd20:ce::254", "metadata"},
		{"fe80::1%eth0", "link-local"},
		{"fec0::1", "not an address of the public internet"},
		{"ff02::1", "multicast"},
	} {
		address := netip.AddrPortFrom(netip.MustParseAddr(c.address), 443)
		err := Policy{}.Check(address)
		if c.refused == "" && err != nil || c.refused != "" && (err == nil || !strings.Contains(err.Error(), c.refused)) {
			t.Errorf("%s: got %v, want %q", c.address, err, c.refused)
		}
		var refused *RefusedError
		if err != nil && (!errors.As(err, &refused) || refused.Address != address) {
			t.Errorf("%s: %T %v", c.address, err, err)
		}
	}
	if (Policy{}).Check(netip.AddrPort{}) == nil {
		t.Error("no address at all is allowed")
	}
}

// TestCheckAgrees compares with what the standard library knows, and the forms in
// which one address can be written with each other.
func TestCheckAgrees(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var policy Policy
	for range 200_000 {
		var four [4]byte
		binary.BigEndian.PutUint32(four[:], random.Uint32())
		var six [16]byte
		binary.BigEndian.PutUint64(six[:8], random.Uint64())
		binary.BigEndian.PutUint64(six[8:], random.Uint64())
		v4, v6 := netip.AddrFrom4(four), netip.AddrFrom16(six)
		for _, ip := range []netip.Addr{v4, v6} {
			known := ip.IsPrivate() || ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified()
			if known && policy.Check(netip.AddrPortFrom(ip, 80)) == nil {
				t.Fatalf("%s is allowed", ip)
			}
		}
		plain := policy.Check(netip.AddrPortFrom(v4, 80)) == nil
		translated := nat64.Addr().As16()
		copy(translated[12:], four[:])
		for _, other := range []netip.Addr{netip.AddrFrom16(v4.As16()), netip.AddrFrom16(translated)} {
			if got := policy.Check(netip.AddrPortFrom(other, 80)) == nil; got != plain {
				t.Fatalf("%s: %v, but %s: %v", v4, plain, other, got)
			}
		}
	}
}

func TestCheckAllows(t *testing.T) {
	policy := Policy{
		Networks: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd12::/32")},
		Ports:    []uint16{443, 8443},
	}
	for address, allowed := range map[string]bool{
		"10.1.2.3:443":           true,
		"[::ffff:10.1.2.3]:8443": true,
		"[fd12::1]:443":          true,
		"[fd12::1%eth0]:443":     true,
		"1.1.1.1:443":            true,
		"10.1.2.3:80":            false,
		"1.1.1.1:25":             false,
		"10.2.0.1:443":           false,
		"[fd13::1]:443":          false,
		"127.0.0.1:443":          false,
	} {
		if err := policy.Check(netip.MustParseAddrPort(address)); (err == nil) != allowed {
			t.Errorf("%s: %v", address, err)
		}
	}
}

// TestDialerRefusesBeforeConnecting counts what arrives at a listener.
func TestDialerRefusesBeforeConnecting(t *testing.T) {
	var arrived atomic.Int32
	listener := listen(t, "127.0.0.1:0", &arrived)
	_, port, _ := net.SplitHostPort(listener)
	for _, host := range []string{"127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "[::1]", "[::]"} {
		address := strings.Trim(host, "[]")
		connection, err := Policy{}.Dialer().DialContext(t.Context(), "tcp", net.JoinHostPort(address, port))
		var refused *RefusedError
		if !errors.As(err, &refused) {
			t.Errorf("%s: %v", host, err)
		}
		if connection != nil {
			connection.Close()
		}
	}
	allowing := Policy{Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	connection, err := allowing.Dialer().DialContext(t.Context(), "tcp", listener)
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	if _, err := io.ReadAll(connection); err != nil { // until the listener has counted it
		t.Error(err)
	}
	if n := arrived.Load(); n != 1 {
		t.Errorf("%d connections arrived, want the one allowed", n)
	}
}

// listen accepts connections, counts and closes them until the test ends.
func listen(t *testing.T, address string, arrived *atomic.Int32) string {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			arrived.Add(1)
			connection.Close()
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		<-done
	})
	return listener.Addr().String()
}

// TestRebinding has a name that leads to an allowed address once, and then to one
// that is not: each connection is judged by where it goes.
func TestRebinding(t *testing.T) {
	served, inner := make(chan string, 10), make(chan string, 10)
	outside := serve(t, "127.0.0.2:0", served)
	_, port, _ := net.SplitHostPort(outside)
	serve(t, "127.0.0.1:"+port, inner)
	names := nameServer(t, [4]byte{127, 0, 0, 2}, [4]byte{127, 0, 0, 1})

	dialer := Policy{Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32")}}.Dialer()
	dialer.Resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", names)
	}}
	client := &http.Client{Transport: &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true}}
	get := func() error {
		response, err := client.Get("http://rebinding.test.:" + port + "/")
		if err == nil {
			response.Body.Close()
		}
		return err
	}
	if err := get(); err != nil {
		t.Fatalf("the first time: %v", err)
	}
	var refused *RefusedError
	if err := get(); !errors.As(err, &refused) || refused.Address.Addr() != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("the second time: %v", err)
	}
	if len(served) != 1 || len(inner) != 0 {
		t.Errorf("%d requests outside, %d inside", len(served), len(inner))
	}
}

func serve(t *testing.T, address string, requests chan<- string) string {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { requests <- r.URL.Path })}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() {
		server.Close()
		<-done
	})
	return listener.Addr().String()
}

// nameServer answers each question for an IPv4 address with the next of the
// answers, the last one for ever, and has no IPv6 addresses.
func nameServer(t *testing.T, answers ...[4]byte) string {
	t.Helper()
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buffer := make([]byte, 1500)
		for {
			n, from, err := socket.ReadFrom(buffer)
			if err != nil {
				return
			}
			// Header of 12 bytes, then the name, which ends with 0, type and class.
			end := 12 + strings.IndexByte(string(buffer[12:n]), 0) + 5
			question := buffer[12:end]
			reply := append([]byte{buffer[0], buffer[1], 0x84, 0, 0, 1, 0, 0, 0, 0, 0, 0}, question...)
			if kind := binary.BigEndian.Uint16(question[len(question)-4:]); kind == 1 {
				reply[7] = 1 // one answer: the question's name, A, IN, no time to live, 4 bytes
				reply = append(reply, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4)
				reply = append(reply, answers[0][:]...)
				if len(answers) > 1 {
					answers = answers[1:]
				}
			}
			_, _ = socket.WriteTo(reply, from)
		}
	}()
	t.Cleanup(func() {
		socket.Close()
		<-done
	})
	return socket.LocalAddr().String()
}

func TestControlRefusesWhatIsNoAddress(t *testing.T) {
	for _, address := range []string{"", "nonsense", "1.1.1.1", "host:" + strconv.Itoa(80)} {
		if err := (Policy{}).Dialer().Control("tcp", address, nil); err == nil {
			t.Errorf("%q is allowed", address)
		}
	}
}
