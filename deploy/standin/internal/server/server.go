// Package server runs FerretDB (a MongoDB-compatible server on SQLite files) inside this process,
// with the proxy in front of it that makes its updates atomic.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/FerretDB/FerretDB/ferretdb"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.uber.org/zap"
	"go.uber.org/zap/exp/zapslog"

	"github.com/almanac-scheduler/almanac/deploy/standin/internal/control"
	"github.com/almanac-scheduler/almanac/deploy/standin/internal/proxy"
)

// ErrDataInUse means that another process serves the same data folder. Two at once would each let one
// message through at a time, and updates would not be atomic.
var ErrDataInUse = errors.New("the data folder is in use by another stand-in")

// Together they keep the end below 2 s.
const (
	servingGrace = time.Second            // for messages at hand
	closingGrace = 500 * time.Millisecond // for FerretDB to close its files
)

// Config says what a Server serves.
type Config struct {
	// Listen is the TCP address, such as 127.0.0.1:0; port 0 picks a free one.
	Listen string
	// DataDir keeps the databases between runs. It is made when missing.
	DataDir string
	// SeedDatabase names the database that gets the sample data before the first client is served,
	// unless it has them. Empty means none.
	SeedDatabase string
	// SeedAt is the time that the sample data lead up to.
	SeedAt time.Time
	// ReadyFile holds the server's URI, and a line feed, while clients are served. Empty means none.
	ReadyFile string
	// Control is the TCP address, on the loopback interface, over which tests set faults; see package
	// control. Empty means none.
	Control string
	// Logger gets what happens.
	Logger *zap.Logger
}

// Server is one stand-in with its data folder, its address and its FerretDB. Use it as
// Open, Serve, Close.
type Server struct {
	config   Config
	listener net.Listener
	control  net.Listener // nil without Config.Control
	faults   *proxy.Faults
	backend  string   // FerretDB's address
	closers  []func() // in the order of opening
}

// Open locks the data folder, takes the address, starts FerretDB and fills the database named by
// SeedDatabase. Clients may connect from then on, and wait until Serve is called. It returns
// ErrDataInUse when another stand-in has the folder, and ctx's error when ctx ended it; sample data that
// were begun are completed by the next Open.
func Open(ctx context.Context, config Config) (_ *Server, err error) {
	s := &Server{config: config, faults: &proxy.Faults{}}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()

	databases := filepath.Join(config.DataDir, "db")
	if err := os.MkdirAll(databases, 0o700); err != nil {
		return nil, fmt.Errorf("make the data folder: %w", err)
	}
	unlock, err := lock(filepath.Join(config.DataDir, "standin.lock"))
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, unlock)
	// What a killed predecessor left there must not be taken for this server's address.
	if err := removeReadyFile(config.ReadyFile); err != nil {
		return nil, err
	}

	// Before the slow part, so that an address in use is told at once.
	if s.listener, err = (&net.ListenConfig{}).Listen(ctx, "tcp", config.Listen); err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	s.closers = append(s.closers, func() { _ = s.listener.Close() })
	if config.Control != "" {
		if err := control.CheckAddress(config.Control); err != nil {
			return nil, fmt.Errorf("control address: %w", err)
		}
		if s.control, err = (&net.ListenConfig{}).Listen(ctx, "tcp", config.Control); err != nil {
			return nil, fmt.Errorf("listen for control: %w", err)
		}
		s.closers = append(s.closers, func() { _ = s.control.Close() })
	}

	backend, stop, err := startFerretDB(databases, config.Logger)
	if err != nil {
		return nil, err
	}
	s.backend = backend
	s.closers = append(s.closers, stop)

	if config.SeedDatabase != "" {
		if err := s.seed(ctx); err != nil {
			return nil, fmt.Errorf("fill database %q: %w", config.SeedDatabase, err)
		}
	}
	return s, nil
}

// URI is what a client connects to.
func (s *Server) URI() string {
	return uri(s.listener.Addr().String())
}

// Serve serves clients until ctx ends, then lets the messages at hand be answered for at most a
// second, and returns nil. It may be called once.
func (s *Server) Serve(ctx context.Context) (err error) {
	if err := writeReadyFile(s.config.ReadyFile, s.URI()); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, removeReadyFile(s.config.ReadyFile)) }()
	said := []zap.Field{zap.String("uri", s.URI())}
	if s.control != nil {
		said = append(said, zap.String("control", s.Control()))
		defer s.serveControl()()
	}
	s.config.Logger.Info("serving", said...)
	front := proxy.Proxy{
		Dial: func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", s.backend)
		},
		Logger: s.config.Logger,
		Grace:  servingGrace,
		Faults: s.faults,
	}
	return front.Serve(ctx, s.listener)
}

// Control is the URL at which faults are set; empty without Config.Control.
func (s *Server) Control() string {
	if s.control == nil {
		return ""
	}
	return "http://" + s.control.Addr().String()
}

// serveControl serves the control address until stop is called.
func (s *Server) serveControl() (stop func()) {
	front := http.Server{Handler: control.Handler(s.faults), ReadHeaderTimeout: servingGrace}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := front.Serve(s.control); !errors.Is(err, http.ErrServerClosed) {
			s.config.Logger.Error("control ended", zap.Error(err))
		}
	}()
	return func() {
		_ = front.Close()
		<-ended
	}
}

// Close stops FerretDB and gives the address and the data folder free. Serve must have returned.
func (s *Server) Close() {
	for _, closer := range slices.Backward(s.closers) {
		closer()
	}
	s.closers = nil
}

func (s *Server) seed(ctx context.Context) (err error) {
	// Straight to FerretDB: nobody else is served yet.
	client, err := mongo.Connect(options.Client().ApplyURI(uri(s.backend)))
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer func() { err = errors.Join(err, client.Disconnect(context.WithoutCancel(ctx))) }()
	return seed(ctx, client.Database(s.config.SeedDatabase), s.config.SeedAt, s.config.Logger)
}

func uri(address string) string {
	return (&url.URL{Scheme: "mongodb", Host: address, Path: "/"}).String()
}

// lock holds the file until unlock is called or the process ends, however it ends.
func lock(path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the data folder: %w", err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = file.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: %s", ErrDataInUse, path)
		}
		return nil, fmt.Errorf("lock the data folder: %w", err)
	}
	return func() { _ = file.Close() }, nil
}

// writeReadyFile puts the URI into the file in one step: a reader sees all of it or no file.
func writeReadyFile(path, uri string) (err error) {
	if path == "" {
		return nil
	}
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write the ready file: %w", err)
	}
	_, err = file.WriteString(uri + "\n")
	if err = errors.Join(err, file.Close()); err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		_ = os.Remove(file.Name())
		return fmt.Errorf("write the ready file: %w", err)
	}
	return nil
}

func removeReadyFile(path string) error {
	if path == "" {
		return nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the ready file: %w", err)
	}
	return nil
}

// startFerretDB serves the folder of databases at the returned address, on the loopback interface and
// a port that nobody is told, until stop is called.
func startFerretDB(folder string, logger *zap.Logger) (address string, stop func(), err error) {
	folder, err = filepath.Abs(folder)
	if err != nil {
		return "", nil, fmt.Errorf("find the data folder: %w", err)
	}
	source := url.URL{
		Scheme: "file",
		Path:   folder + "/",
		// What is committed survives a kill of the process; only a power cut could take the last of it.
		RawQuery: url.Values{"_pragma": {"synchronous(normal)"}}.Encode(),
	}
	// Below error it tells every refused command, which the client learns anyway.
	errorsOnly := logger.WithOptions(zap.IncreaseLevel(zap.ErrorLevel)).Core()
	ferret, err := ferretdb.New(&ferretdb.Config{
		Listener:  ferretdb.ListenerConfig{TCP: "127.0.0.1:0"},
		Handler:   "sqlite",
		SQLiteURL: source.String(),
		Logger:    slog.New(zapslog.NewHandler(errorsOnly, zapslog.WithName("ferretdb"))),
	})
	if err != nil {
		return "", nil, fmt.Errorf("start FerretDB: %w", err)
	}
	running, cancel := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		if err := ferret.Run(running); err != nil {
			logger.Error("FerretDB ended", zap.Error(err))
		}
	}()
	stop = func() {
		cancel()
		patience, cancel := context.WithTimeout(context.Background(), closingGrace)
		defer cancel()
		select {
		case <-stopped:
		case <-patience.Done():
			// It is still at work for a client that is gone. SQLite undoes what the end of the process cuts.
			logger.Warn("FerretDB did not stop in time")
		}
	}
	at, err := url.Parse(ferret.MongoDBURI())
	if err != nil {
		stop()
		return "", nil, fmt.Errorf("find FerretDB's address: %w", err)
	}
	return at.Host, stop, nil
}
