package sqlitestore

import (
	"errors"
	"fmt"
	"math"
	"time"

	"zombiezen.com/go/sqlite"
)

// conn is one connection with short ways to ask. It belongs to one goroutine at
// a time.
type conn struct {
	*sqlite.Conn
}

// none stands for the zero time, NULL in the database.
const none = math.MinInt64

// millis is how a time is kept.
func millis(t time.Time) int64 {
	if t.IsZero() {
		return none
	}
	return t.UnixMilli()
}

func fromMillis(ms int64) time.Time {
	if ms == none {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

// bind sets one parameter. A time that is zero and no bytes are NULL.
func bind(s *sqlite.Stmt, i int, value any) error {
	switch v := value.(type) {
	case int:
		s.BindInt64(i, int64(v))
	case int64:
		bindInt(s, i, v)
	case bool:
		s.BindBool(i, v)
	case string:
		s.BindText(i, v)
	case []byte:
		bindOptional(s, i, string(v))
	case time.Time:
		bindInt(s, i, millis(v))
	default:
		return fmt.Errorf("parameter %d has the type %T, which has no place in the database", i, v)
	}
	return nil
}

func bindInt(s *sqlite.Stmt, i int, v int64) {
	if v == none {
		s.BindNull(i)
		return
	}
	s.BindInt64(i, v)
}

func bindOptional(s *sqlite.Stmt, i int, v string) {
	if v == "" {
		s.BindNull(i)
		return
	}
	s.BindText(i, v)
}

// row is the row that a statement stands on.
type row struct{ s *sqlite.Stmt }

func (r row) int(i int) int64   { return r.s.ColumnInt64(i) }
func (r row) bool(i int) bool   { return r.s.ColumnInt64(i) != 0 }
func (r row) text(i int) string { return r.s.ColumnText(i) }
func (r row) null(i int) bool   { return r.s.ColumnIsNull(i) }
func (r row) millis(i int) int64 {
	if r.null(i) {
		return none
	}
	return r.int(i)
}
func (r row) time(i int) time.Time { return fromMillis(r.millis(i)) }

func (r row) bytes(i int) []byte {
	if r.null(i) {
		return nil
	}
	return []byte(r.text(i))
}

type args []any

// bound prepares a query, once for each connection, and binds its parameters.
func (c *conn) bound(query string, a args) (*sqlite.Stmt, error) {
	s, err := c.Prepare(query)
	if err != nil {
		return nil, err
	}
	for i, v := range a {
		if err := bind(s, i+1, v); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// exec runs a statement without rows and returns how many rows it changed.
func (c *conn) exec(query string, a args) (int, error) {
	s, err := c.bound(query, a)
	if err != nil {
		return 0, err
	}
	return c.step(s)
}

// step runs a bound statement without rows and makes it ready for the next time.
func (c *conn) step(s *sqlite.Stmt) (int, error) {
	if _, err := s.Step(); err != nil {
		return 0, err
	}
	return c.Changes(), s.Reset()
}

// errEnough ends an each without being its error.
var errEnough = errors.New("enough")

// each calls f for every row, until f returns an error. Each nests only with
// other queries.
func (c *conn) each(query string, a args, f func(row) error) error {
	s, err := c.bound(query, a)
	if err != nil {
		return err
	}
	for {
		more, err := s.Step()
		if err != nil {
			return err
		}
		if !more {
			return s.Reset()
		}
		if err := f(row{s}); err != nil {
			_ = s.Reset()
			if err == errEnough { //nolint:errorlint // f returns it as it is
				return nil
			}
			return err
		}
	}
}

// one calls f for the first row and tells whether there was one.
func (c *conn) one(query string, a args, f func(row)) (bool, error) {
	s, err := c.bound(query, a)
	if err != nil {
		return false, err
	}
	found, err := s.Step()
	if err != nil {
		return false, err
	}
	if found {
		f(row{s})
	}
	return found, s.Reset()
}

// number returns the first column of the first row, 0 without one.
func (c *conn) number(query string, a args) (n int64, err error) {
	_, err = c.one(query, a, func(r row) { n = r.int(0) })
	return n, err
}
