package rpc

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// certificate writes a self-signed certificate for localhost.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	about := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2120, 1, 1, 0, 0, 0, 0, time.UTC),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, about, about, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return write(t, "cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		write(t, "key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}))
}

func write(t *testing.T, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// guarded answers those who bring the token.
type guarded struct {
	grpc_health_v1.UnimplementedHealthServer
}

func (guarded) Check(ctx context.Context, _ *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	if token, ok := BearerToken(ctx); !ok || token != "secret" {
		return nil, status.Errorf(codes.Unauthenticated, "token %q, %v", token, ok)
	}
	return &grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_SERVING}, nil
}

// call makes one call from a client with these options to a server with those.
func call(t *testing.T, server, client TLS, token func() (string, error)) error {
	t.Helper()
	options, err := ServerOptions(server)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(options...)
	grpc_health_v1.RegisterHealthServer(s, guarded{})
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.Serve(listener) }()
	defer s.Stop()
	dial, err := DialOptions(client, token)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(listener.Addr().String(), dial...)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = grpc_health_v1.NewHealthClient(conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	return err
}

func TestCalls(t *testing.T) {
	cert, key := certificate(t)
	server := TLS{CertFile: cert, KeyFile: key}
	tokenFile := write(t, "token", []byte(" secret\n"))
	for name, c := range map[string]struct {
		server, client TLS
		token          func() (string, error)
		want           string
	}{
		"plaintext":     {TLS{Plaintext: true}, TLS{Plaintext: true}, Token("secret"), ""},
		"TLS":           {server, TLS{CAFile: cert, ServerName: "localhost"}, TokenFile(tokenFile), ""},
		"wrong name":    {server, TLS{CAFile: cert, ServerName: "elsewhere"}, Token("secret"), "elsewhere"},
		"other CA":      {server, TLS{ServerName: "localhost"}, Token("secret"), "unknown authority"},
		"plain to TLS":  {server, TLS{Plaintext: true}, Token("secret"), "Unavailable"},
		"no token":      {TLS{Plaintext: true}, TLS{Plaintext: true}, nil, "Unauthenticated"},
		"no token file": {TLS{Plaintext: true}, TLS{Plaintext: true}, TokenFile(tokenFile + "x"), "token file"},
		"empty file":    {TLS{Plaintext: true}, TLS{Plaintext: true}, TokenFile(os.DevNull), "is empty"},
		"another token": {TLS{Plaintext: true}, TLS{Plaintext: true}, Token("guess"), "Unauthenticated"},
	} {
		t.Run(name, func(t *testing.T) {
			err := call(t, c.server, c.client, c.token)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("call: %v, want %q", err, c.want)
			}
		})
	}
}

func TestTokenNeedsTLS(t *testing.T) {
	if !(bearer{}).RequireTransportSecurity() || (bearer{plaintext: true}).RequireTransportSecurity() {
		t.Error("a token may travel in the clear only where plaintext was asked for")
	}
}

func TestRefusedTLS(t *testing.T) {
	cert, key := certificate(t)
	for _, c := range []struct {
		tls  TLS
		want string
	}{
		{TLS{}, "certificate file and a key file"},
		{TLS{CertFile: cert}, "certificate file and a key file"},
		{TLS{CertFile: cert, KeyFile: cert}, cert},
		{TLS{Plaintext: true, CertFile: cert, KeyFile: key}, "exclude"},
	} {
		if _, err := ServerOptions(c.tls); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("ServerOptions(%+v): %v, want %q", c.tls, err, c.want)
		}
	}
	for _, c := range []struct {
		tls  TLS
		want string
	}{
		{TLS{CAFile: cert + "x"}, "CA file"},
		{TLS{CAFile: key}, "no PEM certificate"},
		{TLS{Plaintext: true, CAFile: cert}, "excludes"},
	} {
		if _, err := DialOptions(c.tls, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("DialOptions(%+v): %v, want %q", c.tls, err, c.want)
		}
	}
}

func TestBearerToken(t *testing.T) {
	for _, c := range []struct {
		sent []string
		want string
	}{
		{nil, ""},
		{[]string{"Bearer abc"}, "abc"},
		{[]string{"bearer abc"}, "abc"},
		{[]string{"Bearer "}, ""},
		{[]string{"Basic abc"}, ""},
		{[]string{"Bearer a", "Bearer b"}, ""},
	} {
		ctx := metadata.NewIncomingContext(t.Context(), metadata.MD{"authorization": c.sent})
		if got, ok := BearerToken(ctx); got != c.want || ok != (c.want != "") {
			t.Errorf("BearerToken of %q = %q, %v; want %q", c.sent, got, ok, c.want)
		}
	}
}
