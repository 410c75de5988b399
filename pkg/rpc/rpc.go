// Package rpc holds what clients and servers of Almanac's gRPC services have to
// agree on: transport security, bearer credentials, keepalive and the size of
// messages.
package rpc

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
)

// MaxMessageBytes bounds one message in either direction, for clients and
// servers alike: whoever gathers work into a frame stays well below it.
const MaxMessageBytes = 16 << 20

// Keepalive: both sides notice a peer that vanished without a word within
// about 15 seconds, and a client may ping no more often than every 5.
const (
	pingAfter   = 10 * time.Second
	pingTimeout = 5 * time.Second
	leastPing   = 5 * time.Second
)

// Windows of flow control, in bytes. They are fixed: otherwise each side keeps
// measuring the connection with a ping and its answer for nearly every message of
// a quiet one, two frames and two system calls on top of each.
const (
	streamWindow     = 1 << 20
	connectionWindow = 4 << 20
)

// streamWorkers is how many goroutines a server keeps for calls. A new one for each
// call would grow its stack anew down to the database.
const streamWorkers = 64

// TLS says how a connection is protected. The zero value is a client's TLS with
// the system's authorities.
type TLS struct {
	// Plaintext switches TLS off; it excludes the others.
	Plaintext bool
	// CAFile is a PEM file of the authorities to trust instead of the system's
	// (for a client, those that vouch for the server).
	CAFile string
	// CertFile and KeyFile are a server's certificate and private key (PEM).
	CertFile, KeyFile string
	// ServerName overrides the name that a client expects in the certificate.
	ServerName string
}

// ServerOptions returns the options of a gRPC server. It fails when the files
// cannot be read, or when neither a certificate nor Plaintext is given.
func ServerOptions(t TLS) ([]grpc.ServerOption, error) {
	creds, err := t.server()
	if err != nil {
		return nil, err
	}
	return []grpc.ServerOption{
		grpc.Creds(creds),
		grpc.MaxRecvMsgSize(MaxMessageBytes),
		grpc.MaxSendMsgSize(MaxMessageBytes),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connectionWindow),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingAfter, Timeout: pingTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: leastPing, PermitWithoutStream: true}),
	}, nil
}

func (t TLS) server() (credentials.TransportCredentials, error) {
	if t.Plaintext {
		if t.CertFile != "" || t.KeyFile != "" {
			return nil, errors.New("tls: plaintext and a certificate exclude each other: drop one of them")
		}
		return insecure.NewCredentials(), nil
	}
	if t.CertFile == "" || t.KeyFile == "" {
		return nil, errors.New("tls: give a certificate file and a key file, or ask for plaintext explicitly")
	}
	pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("tls: certificate %s with key %s: %w", t.CertFile, t.KeyFile, err)
	}
	return credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}), nil
}

// DialOptions returns the options of a gRPC client. The token is asked for at
// every call and sent as a bearer credential; nil sends none. It fails when the
// CA file cannot be read.
func DialOptions(t TLS, token func() (string, error)) ([]grpc.DialOption, error) {
	creds, err := t.client()
	if err != nil {
		return nil, err
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessageBytes), grpc.MaxCallSendMsgSize(MaxMessageBytes)),
		grpc.WithStaticStreamWindowSize(streamWindow),
		grpc.WithStaticConnWindowSize(connectionWindow),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingAfter, Timeout: pingTimeout}),
	}
	if token != nil {
		options = append(options, grpc.WithPerRPCCredentials(bearer{token: token, plaintext: t.Plaintext}))
	}
	return options, nil
}

func (t TLS) client() (credentials.TransportCredentials, error) {
	if t.Plaintext {
		if t.CAFile != "" || t.ServerName != "" {
			return nil, errors.New("tls: plaintext excludes a CA file and a server name: drop one of them")
		}
		return insecure.NewCredentials(), nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("tls: CA file: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("tls: CA file %s holds no PEM certificate", t.CAFile)
		}
	}
	return credentials.NewTLS(config), nil
}

const (
	authorization = "authorization"
	scheme        = "bearer "
)

// bearer sends a token with every call.
type bearer struct {
	token     func() (string, error)
	plaintext bool
}

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	token, err := b.token()
	if err != nil {
		return nil, err
	}
	return map[string]string{authorization: "Bearer " + token}, nil
}

// RequireTransportSecurity lets a token travel in the clear only where plaintext
// was asked for.
func (b bearer) RequireTransportSecurity() bool { return !b.plaintext }

// Token returns a source for DialOptions that always gives the same token.
func Token(token string) func() (string, error) {
	return func() (string, error) { return token, nil }
}

// TokenFile returns a source for DialOptions that reads the file at every call,
// so that a token can be exchanged under a running process. Space around the
// token is dropped; an empty file is an error.
func TokenFile(path string) func() (string, error) {
	return func() (string, error) {
		content, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("token file: %w", err)
		}
		token := strings.TrimSpace(string(content))
		if token == "" {
			return "", fmt.Errorf("token file %s is empty", path)
		}
		return token, nil
	}
}

// BearerToken returns the token that came with a call to a server, or false
// when there is none, or more than one authorization.
func BearerToken(ctx context.Context) (string, bool) {
	values := metadata.ValueFromIncomingContext(ctx, authorization)
	if len(values) != 1 || len(values[0]) <= len(scheme) || !strings.EqualFold(values[0][:len(scheme)], scheme) {
		return "", false
	}
	return values[0][len(scheme):], true
}
