package mongostore

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/readconcern"
	"go.mongodb.org/mongo-driver/v2/mongo/readpref"
	"go.mongodb.org/mongo-driver/v2/mongo/writeconcern"
	"go.uber.org/zap"
)

const (
	// selectFor is how long a call waits for a primary. It is shorter than an
	// election may take: callers try again, and meanwhile Ready says what is the
	// matter.
	selectFor = 3 * time.Second
	// DefaultDatabase is the database of a URI that names none.
	DefaultDatabase = "almanac"

	// minWire is the wire protocol of MongoDB 5.0, the oldest version that the
	// store is made for: it knows hello and retryable writes in every deployment,
	// and what is older has been without fixes for years.
	minWire = 13

	// schema is the version of what the documents look like.
	schema = 1
	metaID = "store"
)

// Options are the settings of a store.
type Options struct {
	// URI names the servers and the database: mongodb://host:27017/almanac or
	// mongodb+srv://host/almanac. It carries no password.
	URI string
	// Username and Password, when set, are used instead of what the URI says.
	Username, Password string
	// CAFile, CertFile and KeyFile are PEM files: whom to trust, and the client's
	// own certificate. Any of them switches TLS on.
	CAFile, CertFile, KeyFile string
	// AllowStandalone permits a server without replica set, which loses
	// acknowledged writes when it is lost.
	AllowStandalone bool
	Log             *zap.Logger // nil for none
}

// ParseURI checks a URI as far as that is possible without its servers, and
// returns the hosts that it names, for people, and the database.
func ParseURI(uri string) (hosts, database string, err error) {
	rest, ok := strings.CutPrefix(uri, "mongodb://")
	if !ok {
		if rest, ok = strings.CutPrefix(uri, "mongodb+srv://"); !ok {
			return "", "", errors.New("it must begin with mongodb:// or mongodb+srv://")
		}
	}
	rest, query, _ := strings.Cut(rest, "?")
	// A password may hold what ends it for others.
	at := strings.LastIndexByte(rest, '@')
	secret, _, cut := strings.Cut(query, "@")
	if at >= 0 && strings.Contains(rest[:at], ":") || cut && !strings.Contains(secret, "=") {
		return "", "", errors.New("it carries a password, which others could see: write it into a file, and name that with store_password_file")
	}
	hosts, database, _ = strings.Cut(rest[at+1:], "/")
	switch {
	case hosts == "":
		return "", "", errors.New("it names no server: write mongodb://HOST:27017/" + DefaultDatabase)
	case database == "":
		database = DefaultDatabase
	case strings.ContainsAny(database, `/\. "$`) || len(database) > 63:
		return "", "", fmt.Errorf("%q cannot be the name of a database", database)
	}
	return hosts, database, nil
}

// Open connects to the database, checks that it keeps the store's promise, and
// makes the indexes that are not there. The error says what is wrong and what to
// do. Close ends the store.
func Open(ctx context.Context, o Options) (*Store, error) { return open(ctx, o, nil) }

// open lets tune, when it is not nil, change the driver's settings.
func open(ctx context.Context, o Options, tune func(*options.ClientOptions)) (*Store, error) {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	hosts, database, err := ParseURI(o.URI)
	if err != nil {
		return nil, fmt.Errorf("the URI: %w", err)
	}
	settings, err := clientOptions(o)
	if err != nil {
		return nil, err
	}
	if tune != nil {
		tune(settings)
	}
	client, err := mongo.Connect(settings)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", hosts, err)
	}
	s := newStore(client, database, o.Log)
	if err := s.prepare(ctx, hosts, o.AllowStandalone); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func clientOptions(o Options) (*options.ClientOptions, error) {
	journalled := true
	majority := writeconcern.Majority()
	majority.Journal = &journalled
	settings := options.Client().ApplyURI(o.URI).SetAppName("almanac-registry").
		SetMaxPoolSize(connections).SetServerSelectionTimeout(selectFor).SetConnectTimeout(selectFor).
		SetWriteConcern(majority).SetReadConcern(readconcern.Majority()).SetReadPreference(readpref.Primary()).
		SetRetryWrites(true).SetRetryReads(true)
	if o.Username != "" || o.Password != "" {
		var c options.Credential
		if settings.Auth != nil {
			c = *settings.Auth
		}
		if o.Username != "" {
			c.Username = o.Username
		}
		if o.Password != "" {
			c.Password, c.PasswordSet = o.Password, true
		}
		settings.SetAuth(c)
	}
	if o.CAFile == "" && o.CertFile == "" {
		if err := settings.Validate(); err != nil {
			return nil, fmt.Errorf("the URI: %w", err)
		}
		return settings, nil
	}
	secure := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("the certificates to trust: %w", err)
		}
		secure.RootCAs = x509.NewCertPool()
		if !secure.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("the certificates to trust: %s has none in PEM form", o.CAFile)
		}
	}
	if o.CertFile != "" {
		own, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("the client's certificate: %w", err)
		}
		secure.Certificates = []tls.Certificate{own}
	}
	settings.SetTLSConfig(secure)
	if err := settings.Validate(); err != nil {
		return nil, fmt.Errorf("the URI: %w", err)
	}
	return settings, nil
}

// hello is what a server says of itself.
type hello struct {
	SetName string `bson:"setName"`
	Msg     string `bson:"msg"` // "isdbgrid" from a router of a sharded cluster
	MaxWire int    `bson:"maxWireVersion"`
}

// check returns why the server cannot keep the store's promise.
func (h hello) check(hosts string, allowStandalone bool) error {
	switch {
	case h.MaxWire < minWire:
		return fmt.Errorf("the MongoDB at %s is older than version 5.0: upgrade it", hosts)
	case h.SetName == "" && h.Msg != "isdbgrid" && !allowStandalone:
		return fmt.Errorf("the MongoDB at %s is not a replica set, so what it acknowledged could be lost with it: make it one "+
			"(start it with --replSet and call rs.initiate() once), or accept the loss with store_allow_standalone", hosts)
	}
	return nil
}

// prepare looks at whom we are talking to, and makes ready what is needed.
func (s *Store) prepare(ctx context.Context, hosts string, allowStandalone bool) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute) // indexes over many records take their time
	defer cancel()
	db := s.meta.Database()
	var h hello
	if err := db.RunCommand(ctx, bson.D{{Key: "hello", Value: 1}}, options.RunCmd().SetReadPreference(readpref.Primary())).Decode(&h); err != nil {
		return explain(err, hosts)
	}
	if err := h.check(hosts, allowStandalone); err != nil {
		return err
	}
	if _, err := s.meta.UpdateOne(ctx, byID(metaID), bson.D{{Key: "$setOnInsert", Value: bson.D{{Key: "schema", Value: schema}}}},
		options.UpdateOne().SetUpsert(true)); err != nil && !duplicate(err) {
		return explain(err, hosts)
	}
	meta, err := one[struct {
		Schema int `bson:"schema"`
	}](ctx, s.meta, byID(metaID))
	if err != nil {
		return explain(err, hosts)
	}
	if meta != nil && meta.Schema > schema {
		return fmt.Errorf("a later version of this program wrote the database %s (schema %d; this one knows %d): use that version", db.Name(), meta.Schema, schema)
	}
	if err := makeIndexes(ctx, db); err != nil {
		return explain(err, hosts)
	}
	return nil
}

// Codes of the server.
const (
	unauthorized         = 13
	authenticationFailed = 18
)

// explain says what to do about an error at the start.
func explain(err error, hosts string) error {
	if c, ok := errors.AsType[mongo.ServerError](err); ok && c.HasErrorCode(unauthorized) {
		return fmt.Errorf("the user may not use the database on %s: give it the role readWrite there: %w", hosts, err)
	}
	c, ok := errors.AsType[mongo.ServerError](err)
	if ok && c.HasErrorCode(authenticationFailed) || strings.Contains(err.Error(), "auth error") {
		return fmt.Errorf("the MongoDB at %s does not let this user in: check store_username and store_password_file, and authSource in the URI: %w", hosts, err)
	}
	if mongo.IsTimeout(err) || mongo.IsNetworkError(err) || strings.Contains(err.Error(), "server selection error") {
		return fmt.Errorf("no primary of the MongoDB at %s can be reached: check the address, the network and, with TLS, the certificates: %w", hosts, err)
	}
	return fmt.Errorf("prepare the MongoDB at %s: %w", hosts, err)
}
