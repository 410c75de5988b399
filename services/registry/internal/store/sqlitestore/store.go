// Package sqlitestore keeps a registry's data in one SQLite database in a
// folder: the default for one registry.
//
// # Writing
//
// One goroutine owns the only connection that writes. It commits as soon as it
// is free, everything that has gathered meanwhile in one transaction, so that
// each waits for one synchronisation of the disk at most, and many share one.
// Operations that hand out work go ahead of results. When the database fails,
// the transaction is rolled back and all its answers are unknown; the next one
// tries afresh, so that the store recovers by itself.
//
// Checkpoints run on a connection of their own, beside the writer. Once the
// write-ahead log is long, the writer waits for one, so that the log begins
// anew.
//
// # Reading
//
// A few connections read committed snapshots, beside the writer.
//
// The folder belongs to one process at a time: a lock file says so.
package sqlitestore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

const (
	databaseName = "almanac.db"
	lockName     = "almanac.lock"
	// readers is how many reads can run at once.
	readers = 4
	// busyFor is how long a connection waits for a lock that somebody outside,
	// such as a backup, holds. All writes wait behind one that does, so it is
	// short: what failed is tried again by those who asked, and meanwhile Ready
	// says what is the matter.
	busyFor = 500 * time.Millisecond
	// restartFor is how long the writer waits at most for readers to let go of
	// the write-ahead log, before it goes on with a longer one.
	restartFor = 20 * time.Millisecond
)

// Options are the settings of a store.
type Options struct {
	Log *zap.Logger // nil for none
}

// Store is a [store.Store] in a folder.
type Store struct {
	log   *zap.Logger
	pace  pacing
	lock  *os.File
	cache *cache
	queue queue
	reads chan *data // idle connections

	checkpoint *conn
	wrote      chan int           // pages written since, for the checkpointer
	pause      chan chan struct{} // the writer waits until the channel sent is closed

	closing   chan struct{} // closed when Close begins
	writing   chan struct{} // closed when the writer has ended
	checking  chan struct{} // closed when the checkpointer has ended
	closeOnce sync.Once
	closeErr  error

	mu      sync.Mutex
	trouble error // of the last transaction, when the database was at fault
}

var _ store.Store = (*Store)(nil)

// Open opens the store in the folder, which it makes if it is not there. The
// error says what to do when another process has it open, or when a later
// version of the program wrote it. Close ends it.
func Open(ctx context.Context, folder string, o Options) (*Store, error) {
	return open(ctx, folder, o, pacing{passiveAfter: 4096, walLimit: 4 * 4096})
}

func open(ctx context.Context, folder string, o Options, pace pacing) (_ *Store, err error) {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("make the data folder: %w", err)
	}
	s := &Store{
		log: o.Log, pace: pace, cache: newCache(), queue: queue{wake: make(chan struct{}, 1)}, reads: make(chan *data, readers),
		wrote: make(chan int, 1), pause: make(chan chan struct{}),
		closing: make(chan struct{}), writing: make(chan struct{}), checking: make(chan struct{}),
	}
	if s.lock, err = lockFolder(folder); err != nil {
		return nil, err
	}
	var conns []*conn
	defer func() {
		if err != nil {
			for _, c := range conns {
				_ = c.Close()
			}
			_ = s.lock.Close()
		}
	}()
	path := filepath.Join(folder, databaseName)
	// SQLite gives its other files the mode of this one.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	// The entry of a new database in its folder must survive as its content does.
	for _, dir := range []string{folder, filepath.Dir(filepath.Clean(folder))} {
		if err := syncFolder(dir); err != nil {
			return nil, fmt.Errorf("open the database: %w", err)
		}
	}
	connect := func(pragmas ...string) *conn {
		if err != nil {
			return nil
		}
		var c *conn
		if c, err = openConn(path, pragmas...); err == nil {
			conns = append(conns, c)
		}
		return c
	}
	main := connect("journal_mode = WAL", "synchronous = FULL", "wal_autocheckpoint = 0",
		fmt.Sprintf("journal_size_limit = %d", pace.walLimit*pageSize), "cache_size = -65536")
	if err == nil {
		err = migrate(main)
	}
	if s.checkpoint = connect("synchronous = FULL", "wal_autocheckpoint = 0"); err == nil {
		s.checkpoint.SetBusyTimeout(restartFor)
	}
	for range readers {
		if c := connect("query_only = ON", "cache_size = -8192"); c != nil {
			s.reads <- &data{conn: c, cache: s.cache}
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open the database %s: %w", path, err)
	}
	w, err := newWriter(s, main)
	if err != nil {
		return nil, fmt.Errorf("open the database %s: %w", path, err)
	}
	go func() {
		defer close(s.writing)
		w.loop()
		s.closeErr = main.Close()
	}()
	go func() {
		defer close(s.checking)
		s.checkpoints()
	}()
	return s, nil
}

func syncFolder(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// openConn opens one connection to a database that is there.
func openConn(path string, pragmas ...string) (*conn, error) {
	c, err := sqlite.OpenConn(path, sqlite.OpenReadWrite)
	if err != nil {
		return nil, err
	}
	c.SetBusyTimeout(busyFor)
	for _, p := range pragmas {
		if err := sqlitex.ExecuteTransient(c, "PRAGMA "+p, nil); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", p, err), c.Close())
		}
	}
	return &conn{c}, nil
}

// lockFolder takes the folder for this process. The lock ends with the process.
func lockFolder(folder string) (*os.File, error) {
	path := filepath.Join(folder, lockName)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock file: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("another process has the data folder %s open: stop it, or use another folder", folder)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// Close implements [store.Store]. It may be called more than once.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		close(s.closing)
		s.queue.close()
		<-s.writing
		<-s.checking
		for range readers { // each comes back when its read is over
			s.closeErr = errors.Join(s.closeErr, (<-s.reads).Close())
		}
		// The last connection to close checkpoints and removes the log.
		s.closeErr = errors.Join(s.closeErr, s.checkpoint.Close(), s.lock.Close())
	})
	return s.closeErr
}

// Ready implements [store.Store]. After a failure it tries a small write.
func (s *Store) Ready(ctx context.Context) error {
	select {
	case <-s.closing:
		return unavailable(errClosed)
	default:
	}
	s.mu.Lock()
	trouble := s.trouble
	s.mu.Unlock()
	if trouble == nil {
		return nil
	}
	return s.write(ctx, func(w *writer) error {
		_, err := w.exec(`INSERT INTO templates (type, version, body) VALUES ('', 0, '') ON CONFLICT DO UPDATE SET version = version + 1`, nil)
		if err == nil {
			_, err = w.exec(`DELETE FROM templates WHERE type = ''`, nil)
		}
		return err
	})
}

// read runs f on a snapshot. What f returns besides refusals comes wrapped as
// unavailable.
func (s *Store) read(ctx context.Context, f func(d *data) error) (err error) {
	select {
	case <-s.closing:
		return unavailable(errClosed)
	default:
	}
	var d *data
	select {
	case d = <-s.reads:
	case <-ctx.Done():
		return unavailable(ctx.Err())
	case <-s.closing:
		return unavailable(errClosed)
	}
	defer func() { s.reads <- d }()
	d.SetInterrupt(ctx.Done())
	defer func() {
		d.SetInterrupt(nil)
		if !d.AutocommitEnabled() {
			if _, rerr := d.exec(`ROLLBACK`, nil); rerr != nil {
				err = errors.Join(err, unavailable(rerr))
			}
		}
	}()
	if _, err := d.exec(`BEGIN`, nil); err != nil {
		return unavailable(err)
	}
	if err := f(d); err != nil {
		if refusal(err) {
			return err
		}
		return unavailable(errors.Join(err, ctx.Err()))
	}
	return nil
}

const pageSize = 4096 // bytes, SQLite's default

// pacing says when checkpoints happen. There is no timer.
type pacing struct {
	// passiveAfter pages that are in the log alone, a checkpoint moves them into
	// the database, as far as it can without anybody waiting.
	passiveAfter int
	// walLimit is how many pages the log has when the writer is asked to wait
	// for a checkpoint that lets it begin anew.
	walLimit int
}

// written tells the checkpointer that a transaction with n operations was
// committed. It is called by the writer only.
func (s *Store) written(n int) {
	pages := 8 + 2*n // rather more than there are; the checkpointer looks again
	for {
		select {
		case s.wrote <- pages:
			return
		case more := <-s.wrote:
			pages += more
		}
	}
}

// checkpoints moves the log into the database, until the writer has ended.
func (s *Store) checkpoints() {
	pages := 0
	for {
		select {
		case n := <-s.wrote:
			if pages += n; pages < s.pace.passiveAfter {
				continue
			}
		case <-s.writing:
			return
		}
		// Operations that are committed together share pages.
		length, moved, err := s.checkpointed("NOOP")
		if pages = int(length - moved); err == nil && pages < s.pace.passiveAfter {
			continue
		}
		pages = 0
		if err == nil {
			length, _, err = s.checkpointed("PASSIVE")
		}
		if err == nil && length >= int64(s.pace.walLimit) {
			resume := make(chan struct{})
			select {
			case s.pause <- resume:
				_, _, err = s.checkpointed("RESTART")
				close(resume)
			case <-s.writing:
				return
			}
		}
		if err != nil {
			s.log.Warn("A checkpoint failed; the next one tries again", zap.Error(err))
		}
	}
}

// checkpointed runs a checkpoint and returns how many pages the log has, and how
// many of them are in the database as well. A RESTART that readers hinder does
// what a PASSIVE one does, and a NOOP only looks.
func (s *Store) checkpointed(mode string) (length, moved int64, err error) {
	_, err = s.checkpoint.one("PRAGMA wal_checkpoint("+mode+")", nil, func(r row) { length, moved = r.int(1), r.int(2) })
	return length, moved, err
}
