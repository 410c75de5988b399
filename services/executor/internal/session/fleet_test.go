package session

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/almanac-scheduler/almanac/pkg/rpc"
	almanacv1 "github.com/almanac-scheduler/almanac/proto/gen/almanac/v1"
)

func twoRegistries(c *Config) { c.Registries = []string{"10.0.0.1:9090", "10.0.0.2:9090"} }

// welcomeBoth returns the streams at the first two registries; the first one
// carries the beats.
func (p *played) welcomeBoth(t *testing.T) (a, b *arrival, atA, atB *almanacv1.LeaseRequest) {
	t.Helper()
	a, b = <-p.registries[0].arrivals, <-p.registries[1].arrivals
	atA = a.welcome(t)
	synctest.Wait()
	atB = b.welcome(t)
	synctest.Wait()
	return a, b, atA, atB
}

func hasBeat(f *almanacv1.LeaseRequest) bool {
	return f.GetHeartbeat() != nil && !f.GetHeartbeat().GetReportOnly()
}

func TestStreamToEachRegistry(t *testing.T) {
	play(t, twoRegistries, func(t *testing.T, p *played) {
		a, b, atA, atB := p.welcomeBoth(t)
		one, two := atA.GetHello(), atB.GetHello()
		if one.GetSession() != two.GetSession() || one.GetSlots() != 2 || atA.GetCredits() != 2 || atB.GetCredits() != 2 {
			t.Errorf("first frames %v and %v", atA, atB)
		}
		streams := []string{one.GetStream(), two.GetStream()}
		slices.Sort(streams)
		if !slices.Equal(streams, []string{"1", "2"}) {
			t.Errorf("streams %v", streams)
		}
		a.send(t, assigned(assignment(1, "e", 1, idem)))
		j := <-p.hands.began
		if f := b.until(t, "withdrawal", func(f *almanacv1.LeaseRequest) bool { return f.GetCredits() != 0 }); f.GetCredits() != -1 {
			t.Errorf("credits %d at the other registry", f.GetCredits())
		}
		j.report.Progress(1, 3, "on the way")
		a.until(t, "progress", func(f *almanacv1.LeaseRequest) bool { return len(f.GetProgress()) == 1 })
		b.until(t, "progress", func(f *almanacv1.LeaseRequest) bool { return len(f.GetProgress()) == 1 })
		j.end <- success
		a.until(t, "result", hasResult)
		b.send(t, &almanacv1.LeaseResponse{Acknowledged: []*almanacv1.Lease{lease("e", 1)}})
		a.until(t, "credit", func(f *almanacv1.LeaseRequest) bool { return f.GetCredits() == 1 })
		f := b.until(t, "credit", func(f *almanacv1.LeaseRequest) bool { return f.GetCredits() == 1 })
		if len(f.GetStarted())+len(f.GetResults())+len(f.GetLogs()) != 0 {
			t.Errorf("frame %v speaks of what belongs to the other stream", f)
		}
	})
}

func TestAnotherRegistryTakesOver(t *testing.T) {
	play(t, twoRegistries, func(t *testing.T, p *played) {
		a, b, atA, _ := p.welcomeBoth(t)
		a.send(t, assigned(assignment(1, "run", 1, idem), assignment(2, "wait", 1, single)))
		j := <-p.hands.began
		j.report.Log("INFO", "said")
		a.until(t, "start", func(f *almanacv1.LeaseRequest) bool { return len(f.GetStarted()) == 2 && len(f.GetLogs()) == 1 })
		synctest.Wait()
		before := time.Now()
		a.end <- status.Error(codes.Unavailable, "the registry stops")
		f := b.until(t, "all of it", func(f *almanacv1.LeaseRequest) bool {
			return len(f.GetStarted()) == 2 && len(f.GetLogs()) == 1 && f.GetHeartbeat() != nil
		})
		beat := f.GetHeartbeat()
		if time.Since(before) != 0 || beat.GetReportOnly() || !slices.Equal(names(beat.GetHeld()), []string{"run/1", "wait/1"}) {
			t.Errorf("after %v: %v", time.Since(before), f)
		}
		if slices.Contains(beat.GetHoldings().GetOpenStreams(), atA.GetHello().GetStream()) || beat.GetHoldings().GetLastStream() != 2 {
			t.Errorf("holdings %v name the closed stream open", beat.GetHoldings())
		}
		if err := p.Ready(); err != nil {
			t.Errorf("not ready: %v", err)
		}
		b.send(t, &almanacv1.LeaseResponse{Go: []*almanacv1.Go{{ExecutionId: "wait", Token: 1}}})
		<-p.hands.began
		j.end <- success
		b.until(t, "result", hasResult)
		// It is back, and what moved stays where it is.
		back := <-p.registries[0].arrivals
		hello := back.welcome(t).GetHello()
		if hello.GetStream() != "3" || len(hello.GetHeld()) != 0 || !slices.Equal(names(hello.GetHoldings().GetElsewhere()), []string{"run/1", "wait/1"}) {
			t.Errorf("hello %v", hello)
		}
	})
}

func TestSurplusIsHandedBack(t *testing.T) {
	play(t, twoRegistries, func(t *testing.T, p *played) {
		a, b, _, _ := p.welcomeBoth(t)
		a.send(t, assigned(assignment(1, "a1", 1, idem), assignment(2, "a2", 1, idem)))
		b.send(t, assigned(assignment(1, "b1", 1, idem), assignment(2, "b2", 1, idem)))
		working := []string{(<-p.hands.began).run.ExecutionID, (<-p.hands.began).run.ExecutionID}
		synctest.Wait()
		back := map[*arrival][]string{}
		for _, at := range []*arrival{a, b} {
			for len(at.frames) > 0 {
				back[at] = append(back[at], names((<-at.frames).GetHandedBack())...)
			}
		}
		for _, name := range back[a] {
			if !strings.HasPrefix(name, "a") {
				t.Errorf("%s was handed back to the wrong registry", name)
			}
		}
		all := working
		for _, name := range slices.Concat(back[a], back[b]) {
			all = append(all, strings.TrimSuffix(name, "/1"))
		}
		slices.Sort(all)
		if !slices.Equal(all, []string{"a1", "a2", "b1", "b2"}) || len(p.hands.began) != 0 {
			t.Errorf("working or handed back %v", all)
		}
	})
}

func TestBeatsFailOver(t *testing.T) {
	play(t, twoRegistries, func(t *testing.T, p *played) {
		a, b, _, _ := p.welcomeBoth(t)
		a.until(t, "beat", hasBeat)
		a.send(t, &almanacv1.LeaseResponse{Beat: true})
		b.until(t, "report", func(f *almanacv1.LeaseRequest) bool { return f.GetHeartbeat().GetReportOnly() })
		a.until(t, "beat", hasBeat) // not answered
		before := time.Now()
		b.until(t, "beat", hasBeat)
		if took := time.Since(before); took != 2500*time.Millisecond {
			t.Errorf("another registry was asked after %v", took)
		}
		b.send(t, &almanacv1.LeaseResponse{Beat: true})
		for len(a.frames) > 0 {
			<-a.frames
		}
		f := a.until(t, "report", func(f *almanacv1.LeaseRequest) bool { return f.GetHeartbeat() != nil })
		if !f.GetHeartbeat().GetReportOnly() {
			t.Error("two registries are asked to write beats")
		}
		for range 10 {
			b.until(t, "beat", hasBeat)
			b.send(t, &almanacv1.LeaseResponse{Beat: true})
		}
		if err := p.Ready(); err != nil {
			t.Errorf("not ready: %v", err)
		}
	})
}

func TestDeadSessionEndsAllStreams(t *testing.T) {
	play(t, twoRegistries, func(t *testing.T, p *played) {
		a, b, _, _ := p.welcomeBoth(t)
		a.send(t, assigned(assignment(1, "a", 1, idem)))
		b.send(t, assigned(assignment(1, "b", 1, idem)))
		<-p.hands.began
		<-p.hands.began
		old := p.state.identity.GetSession()
		b.end <- status.Error(codes.FailedPrecondition, "the session was silent")
		for range a.frames { // until its stream is closed
			continue
		}
		synctest.Wait()
		if err := p.Ready(); err == nil || !strings.Contains(err.Error(), "dead") {
			t.Errorf("ready: %v, want the reason", err)
		}
		first := <-p.registries[0].arrivals // that of the other waits a little
		one := first.welcome(t).GetHello()
		if one.GetSession() == old || one.GetStream() != "1" || !slices.Equal(names(one.GetHeld()), []string{"a/1", "b/1"}) {
			t.Errorf("hello %v", one)
		}
		two := (<-p.registries[1].arrivals).welcome(t).GetHello()
		if two.GetSession() != one.GetSession() || two.GetStream() != "2" || len(two.GetHeld()) != 0 ||
			!slices.Equal(names(two.GetHoldings().GetElsewhere()), []string{"a/1", "b/1"}) {
			t.Errorf("hello %v", two)
		}
	})
}

func TestNamesAreLookedUp(t *testing.T) {
	named := func(c *Config) { c.Registries = []string{"registry:9090", "10.0.0.1:9090"} }
	play(t, named, func(t *testing.T, p *played) {
		a := <-p.registries[0].arrivals // by its address: the name has none yet
		a.welcome(t)
		p.resolve("registry", at(0), at(0), at(1))
		b := <-p.registries[1].arrivals
		b.welcome(t)
		if authority := metadata.ValueFromIncomingContext(b.stream.Context(), ":authority"); !slices.Equal(authority, []string{"registry:9090"}) {
			t.Errorf("authority %v, want the name", authority)
		}
		synctest.Wait()
		if p.dialled(at(0)) != 1 || p.dialled(at(1)) != 1 {
			t.Errorf("dials %v, want one each", p.dials)
		}
		// One address goes and another comes: the stream to the first is used as
		// long as it lasts.
		p.resolve("registry", at(2))
		c := <-p.registries[2].arrivals
		c.welcome(t)
		time.Sleep(20 * time.Second)
		b.send(t, assigned(assignment(1, "e", 1, idem)))
		<-p.hands.began
		b.end <- status.Error(codes.Unavailable, "gone")
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if p.dialled(at(1)) != 1 {
			t.Errorf("dials %v: the address has gone", p.dials)
		}
		// A registry that moved is looked for as soon as its stream breaks.
		p.resolve("registry", at(1))
		before := time.Now()
		c.end <- status.Error(codes.Unavailable, "moved")
		(<-p.registries[1].arrivals).welcome(t)
		if took := time.Since(before); took > time.Second {
			t.Errorf("found again after %v", took)
		}
	})
}

func TestUnknownName(t *testing.T) {
	play(t, func(c *Config) { c.Registries = []string{"registry:9090"} }, func(t *testing.T, p *played) {
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if err := p.Ready(); err == nil || !strings.Contains(err.Error(), "registry:9090") || !strings.Contains(err.Error(), "no such host") {
			t.Errorf("ready: %v", err)
		}
		if n := p.logs.FilterMessageSnippet("cannot be looked up").Len(); n != 1 {
			t.Errorf("%d complaints: %v", n, p.logs.All())
		}
		p.resolve("registry", at(0))
		a := <-p.registry.arrivals
		a.welcome(t)
		p.resolve("registry") // fails again: what was known stands
		time.Sleep(10 * time.Second)
		a.end <- status.Error(codes.Unavailable, "gone")
		(<-p.registry.arrivals).welcome(t)
		synctest.Wait()
		if err := p.Ready(); err != nil {
			t.Errorf("not ready: %v", err)
		}
	})
}

// TestOneRegistryTwice: nothing breaks when two addresses lead to one registry.
func TestOneRegistryTwice(t *testing.T) {
	named := func(c *Config) { c.Registries = []string{"10.0.0.1:9090", "registry:9090"} }
	play(t, named, func(t *testing.T, p *played) {
		a := <-p.registry.arrivals
		a.welcome(t)
		p.registries[1].server.Stop()
		p.mu.Lock()
		p.registries[1] = p.registry
		p.mu.Unlock()
		p.resolve("registry", at(1))
		b := <-p.registry.arrivals
		if hello := b.welcome(t).GetHello(); hello.GetStream() != "2" {
			t.Errorf("hello %v", hello)
		}
		b.send(t, assigned(assignment(1, "e", 1, idem)))
		(<-p.hands.began).end <- success
		b.until(t, "result", hasResult)
		b.end <- status.Error(codes.Unavailable, "gone")
		a.until(t, "result", hasResult)
	})
}

func TestRegistryThatNeverAnswersTheHello(t *testing.T) {
	play(t, twoRegistries, func(t *testing.T, p *played) {
		a := <-p.registries[0].arrivals
		a.until(t, "hello", func(f *almanacv1.LeaseRequest) bool { return f.GetHello() != nil })
		(<-p.registries[1].arrivals).welcome(t)
		before := time.Now()
		for range a.frames { // until its stream is closed
			continue
		}
		if took := time.Since(before); took != patience {
			t.Errorf("given up after %v", took)
		}
		<-p.registries[0].arrivals // tried again
	})
}

func TestDrainOnAllStreams(t *testing.T) {
	play(t, twoRegistries, func(t *testing.T, p *played) {
		a, b, _, _ := p.welcomeBoth(t)
		a.send(t, assigned(assignment(1, "e", 1, idem)))
		j := <-p.hands.began
		b.send(t, &almanacv1.LeaseResponse{Drain: true})
		a.until(t, "draining", func(f *almanacv1.LeaseRequest) bool { return f.GetDraining() })
		f := b.until(t, "draining", func(f *almanacv1.LeaseRequest) bool { return f.GetDraining() })
		if f.GetCredits() != -1 {
			t.Errorf("credits %d: what is said of draining withdraws the rest", f.GetCredits())
		}
		f = b.until(t, "heartbeat", func(f *almanacv1.LeaseRequest) bool { return f.GetHeartbeat() != nil })
		if beat := f.GetHeartbeat(); !beat.GetStopping() || beat.GetRunning() != 1 {
			t.Errorf("heartbeat %v", beat)
		}
		j.end <- success
		a.until(t, "result", hasResult)
		a.send(t, &almanacv1.LeaseResponse{Acknowledged: []*almanacv1.Lease{lease("e", 1)}})
		for _, at := range []*arrival{a, b} {
			for range at.frames { // until our side is closed
				continue
			}
			at.end <- nil
		}
		if err := <-p.done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func TestEndWhileConnecting(t *testing.T) {
	play(t, func(c *Config) { c.Registries = []string{"10.0.0.1:9090", "registry:9090"} }, func(t *testing.T, p *played) {
		(<-p.registry.arrivals).welcome(t)
		p.mu.Lock()
		p.refuse = errors.New("nobody is there")
		p.mu.Unlock()
		p.resolve("registry", at(1), at(2))
		time.Sleep(5 * time.Second)
		p.cancel()
		if err := <-p.done; err == nil {
			t.Error("Run returned nil at the end of its context")
		}
		if err := p.Ready(); err == nil || !strings.Contains(err.Error(), "has ended") {
			t.Errorf("ready: %v", err)
		}
	})
}

func TestPlaces(t *testing.T) {
	here := target{registry: "r:1", host: "r", port: "1"}
	for _, c := range []struct {
		addresses []string
		want      []string
	}{
		{[]string{"10.0.0.2", "10.0.0.1", "10.0.0.2"}, []string{"10.0.0.1:1", "10.0.0.2:1"}},
		{[]string{"::ffff:10.0.0.1", "10.0.0.1"}, []string{"10.0.0.1:1"}},
		{[]string{"fd00::1", "10.0.0.1", "fd00::2"}, []string{"10.0.0.1:1"}},
		{[]string{"fd00::2", "fd00::1"}, []string{"[fd00::1]:1", "[fd00::2]:1"}},
		{nil, nil},
	} {
		var addresses []netip.Addr
		for _, text := range c.addresses {
			addresses = append(addresses, netip.MustParseAddr(text))
		}
		var got []string
		for _, to := range here.places(addresses) {
			if to.registry != "r:1" {
				t.Errorf("registry %q", to.registry)
			}
			got = append(got, to.address)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%v: %v, want %v", c.addresses, got, c.want)
		}
	}
}

// TestCertificateIsForTheName: an address that a name led to is trusted for that
// name only.
func TestCertificateIsForTheName(t *testing.T) {
	certificate, key := certify(t, "registry.test")
	options, err := rpc.ServerOptions(rpc.TLS{CertFile: certificate, KeyFile: key})
	if err != nil {
		t.Fatal(err)
	}
	registry := &fakeRegistry{server: grpc.NewServer(options...), arrivals: make(chan *arrival, 16)}
	almanacv1.RegisterLeaseServiceServer(registry.server, registry)
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = registry.server.Serve(listener) }()
	defer registry.server.Stop()
	for _, c := range []struct {
		registry, serverName string
		trusted              bool
	}{
		{"registry.test:9090", "", true},
		{"other.test:9090", "", false},
		{"other.test:9090", "registry.test", true},
	} {
		dialOptions, err := rpc.DialOptions(rpc.TLS{CAFile: certificate, ServerName: c.serverName}, nil)
		if err != nil {
			t.Fatal(err)
		}
		lease, err := dial(t.Context(), place{registry: c.registry, address: listener.Addr().String()}, c.serverName, dialOptions)
		if trusted := err == nil; trusted != c.trusted {
			t.Errorf("%v: %v", c, err)
		}
		if err == nil {
			lease.Close()
		}
	}
}

// certify makes a certificate of its own authority, and returns its files.
func certify(t *testing.T, name string) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	about := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	signed, err := x509.CreateCertificate(rand.Reader, about, about, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	write := func(file, kind string, content []byte) string {
		path := filepath.Join(t.TempDir(), file)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return write("certificate.pem", "CERTIFICATE", signed), write("key.pem", "PRIVATE KEY", encoded)
}
