package mongostore

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/standintest"
)

func TestParseURI(t *testing.T) {
	for uri, want := range map[string]struct{ hosts, database, err string }{
		"mongodb://a:27017":                              {"a:27017", "almanac", ""},
		"mongodb://a:1,b:2/jobs?replicaSet=rs":           {"a:1,b:2", "jobs", ""},
		"mongodb://a/?tls=true":                          {"a", "almanac", ""},
		"mongodb+srv://cluster.example/jobs":             {"cluster.example", "jobs", ""},
		"mongodb://ann@a/jobs":                           {"a", "jobs", ""},
		"mongodb://ann:s3cret@a/jobs":                    {"", "", "store_password_file"},
		"mongodb://ann:s3cret/x@a/jobs":                  {"", "", "store_password_file"},
		"mongodb://ann:s3cret?x@a/jobs":                  {"", "", "store_password_file"},
		"mongodb://a:1/jobs?appName=x@y":                 {"a:1", "jobs", ""},
		"mongodb://ann:@a/jobs":                          {"", "", "store_password_file"},
		"mongodb:///jobs":                                {"", "", "no server"},
		"mongodb://a/x y":                                {"", "", "database"},
		"mongodb://a/" + strings.Repeat("x", 64):         {"", "", "database"},
		"postgres://a/jobs":                              {"", "", "mongodb://"},
		"mongodb://ann:s3cret@a/?authSource=admin&x=y/z": {"", "", "store_password_file"},
	} {
		hosts, database, err := ParseURI(uri)
		switch {
		case want.err == "" && (err != nil || hosts != want.hosts || database != want.database):
			t.Errorf("%s: %q %q %v", uri, hosts, database, err)
		case want.err != "" && (err == nil || !strings.Contains(err.Error(), want.err)):
			t.Errorf("%s: error %v, want one with %q", uri, err, want.err)
		case err != nil && strings.Contains(err.Error(), "s3cret"):
			t.Errorf("%s: the error tells the password: %v", uri, err)
		}
	}
}

func TestHello(t *testing.T) {
	for name, test := range map[string]struct {
		hello      hello
		standalone bool
		want       string
	}{
		"replica set":                  {hello{SetName: "rs", MaxWire: 21}, false, ""},
		"router":                       {hello{Msg: "isdbgrid", MaxWire: 21}, false, ""},
		"standalone":                   {hello{MaxWire: 21}, false, "is not a replica set"},
		"standalone, allowed":          {hello{MaxWire: 21}, true, ""},
		"the oldest":                   {hello{SetName: "rs", MaxWire: 13}, false, ""},
		"too old":                      {hello{SetName: "rs", MaxWire: 12}, false, "older than version 5.0"},
		"too old and standalone, both": {hello{MaxWire: 9}, true, "older than version 5.0"},
	} {
		err := test.hello.check("host:1", test.standalone)
		if (err == nil) != (test.want == "") || err != nil && (!strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "host:1")) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	standin := standintest.Start(t)
	uri := newDatabase(t, standin.URI)
	good := testOptions(t, uri)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	later := newDatabase(t, standin.URI)
	s := begin(t, later, nil)
	if _, err := s.meta.UpdateOne(t.Context(), byID(metaID), set(bson.E{Key: "schema", Value: schema + 1})); err != nil {
		t.Fatal(err)
	}
	foreign := newDatabase(t, standin.URI)
	f := begin(t, foreign, nil)
	for _, change := range []func() error{
		func() error { return f.executions.Indexes().DropOne(t.Context(), "alarm") },
		func() error {
			_, err := f.executions.Indexes().CreateOne(t.Context(), index{name: "alarm", keys: []string{"-alarm_order"}}.model())
			return err
		},
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
	}
	garbage := filepath.Join(t.TempDir(), "garbage.pem")
	if err := os.WriteFile(garbage, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		change func(*Options)
		fault  *standintest.Fault
		want   string
	}{
		"unreachable":               {func(o *Options) { o.URI = "mongodb://" + closed.Addr().String() }, nil, "can be reached"},
		"not a replica set":         {func(o *Options) { o.AllowStandalone = false }, nil, "store_allow_standalone"},
		"a bad URI":                 {func(o *Options) { o.URI += "?w=a&readConcernLevel=7&ssl=maybe" }, nil, "the URI"},
		"no rights":                 {nil, &standintest.Fault{Command: "createIndexes", Action: standintest.Refuse, Code: unauthorized}, "readWrite"},
		"no rights to write":        {nil, &standintest.Fault{Command: "update", Action: standintest.Refuse, Code: unauthorized}, "readWrite"},
		"a wrong password":          {func(o *Options) { o.Username, o.Password = "ann", "s3cret" }, &standintest.Fault{Command: "saslStart", Action: standintest.Refuse, Code: authenticationFailed}, "store_password_file"},
		"a later version's data":    {func(o *Options) { o.URI = later }, nil, "a later version"},
		"an index of another kind":  {func(o *Options) { o.URI = foreign }, nil, "the index alarm"},
		"no certificates to trust":  {func(o *Options) { o.CAFile = garbage }, nil, "none in PEM form"},
		"no file of certificates":   {func(o *Options) { o.CAFile = garbage + ".not" }, nil, "certificates to trust"},
		"no certificate of its own": {func(o *Options) { o.CertFile, o.KeyFile = garbage, garbage }, nil, "the client's certificate"},
		"no TLS on the other side":  {func(o *Options) { o.CAFile = writeCertificates(t).ca }, nil, "can be reached"},
	} {
		t.Run(name, func(t *testing.T) {
			o := good
			if test.change != nil {
				test.change(&o)
			}
			if test.fault != nil {
				defer standin.Inject(t, *test.fault).Remove(t)
			}
			s, err := open(t.Context(), o, func(c *options.ClientOptions) { c.SetServerSelectionTimeout(300 * time.Millisecond) })
			if err == nil {
				s.Close()
				t.Fatal("it opened")
			}
			if !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
		})
	}
}

// files are certificates as the options want them.
type files struct{ ca, cert, key string }

// writeCertificates makes a certificate for this machine that signs itself.
func writeCertificates(t *testing.T) files {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotAfter: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	f := files{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")}
	for path, block := range map[string]*pem.Block{f.cert: {Type: "CERTIFICATE", Bytes: der}, f.key: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// TestTLS talks to the stand-in through something that speaks TLS and asks for a
// certificate.
func TestTLS(t *testing.T) {
	standin := standintest.Start(t)
	f := writeCertificates(t)
	own, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		t.Fatal(err)
	}
	trusted := x509.NewCertPool()
	ca, err := os.ReadFile(f.ca)
	if err != nil {
		t.Fatal(err)
	}
	trusted.AppendCertsFromPEM(ca)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{own}, ClientCAs: trusted, ClientAuth: tls.RequireAndVerifyClientCert,
	})
	if err != nil {
		t.Fatal(err)
	}
	behind, _, err := ParseURI(standin.URI)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			from, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { tunnel(t, from, behind) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		serving.Wait()
	})
	o := testOptions(t, "mongodb://"+listener.Addr().String()+"/almanac_test_tls")
	o.CAFile, o.CertFile, o.KeyFile = f.ca, f.cert, f.key
	s, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Ready(t.Context()); err != nil {
		t.Error(err)
	}
	o.CertFile, o.KeyFile = "", ""
	if without, err := open(t.Context(), o, func(c *options.ClientOptions) { c.SetServerSelectionTimeout(300 * time.Millisecond) }); err == nil {
		without.Close()
		t.Error("it opened without a certificate of its own")
	}
}

func tunnel(t *testing.T, from net.Conn, to string) {
	defer from.Close()
	var d net.Dialer
	server, err := d.DialContext(t.Context(), "tcp", to)
	if err != nil {
		return
	}
	defer server.Close()
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(from, server)
		from.Close()
	})
	_, _ = io.Copy(server, from)
	server.Close()
	back.Wait()
}

func TestIndexesAreMadeOnce(t *testing.T) {
	uri := newDatabase(t, standintest.Start(t).URI)
	begin(t, uri, nil)
	var seen commands
	again := begin(t, uri, seen.tune)
	if n := seen.count("createIndexes"); n != 0 {
		t.Errorf("they were made again, by %d commands", n)
	}
	for _, i := range indexes {
		have, err := listIndexes(t.Context(), again.meta.Database().Collection(i.collection))
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, p := range have {
			found = found || p.Name == i.name && p.is(i)
		}
		if !found {
			t.Errorf("%s of %s is not there", i.name, i.collection)
		}
	}
}

// TestManyAtTheFirstStart has several registries find an empty database.
func TestManyAtTheFirstStart(t *testing.T) {
	uri := newDatabase(t, standintest.Start(t).URI)
	const many = 4
	failed := make(chan error, many)
	for range many {
		go func() {
			s, err := Open(t.Context(), testOptions(t, uri))
			if err == nil {
				err = s.Close()
			}
			failed <- err
		}()
	}
	for range many {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
}

func TestUnderstood(t *testing.T) {
	for _, err := range []error{job.ErrNotFound, &job.SlotHeldError{By: "x"}, &job.LimitError{}, job.ErrKeyReused} {
		if got := understood(err); !errors.Is(got, err) || errors.Is(got, job.ErrUnavailable) {
			t.Errorf("%v became %v", err, got)
		}
	}
	if got := understood(io.EOF); !errors.Is(got, io.EOF) || !errors.Is(got, job.ErrUnavailable) {
		t.Errorf("%v", got)
	}
	if understood(nil) != nil {
		t.Error("nothing became an error")
	}
}
