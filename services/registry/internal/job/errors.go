package job

import (
	"errors"
	"fmt"
	"time"
)

// Errors that cross package borders. Test with errors.Is; api turns them into
// codes by one table.
var (
	ErrNotFound    = errors.New("not found")
	ErrNameTaken   = errors.New("a job of this name exists already")
	ErrVersion     = errors.New("the job was changed by somebody else")
	ErrConflict    = errors.New("changed concurrently")       // read again and retry
	ErrUnavailable = errors.New("the store is not available") // nothing is known to have happened
	ErrEnded       = errors.New("the execution is over already")
	ErrKeyReused   = errors.New("the idempotency key was used for another request")
	ErrUserExists  = errors.New("a user of this name exists already")
	ErrLastAdmin   = errors.New("the last super admin has to stay one")
)

// SlotHeldError says that a job that forbids overlap has a live execution.
type SlotHeldError struct{ By string } // By is its id

func (e *SlotHeldError) Error() string { return fmt.Sprintf("execution %s is not over", e.By) }

// LimitError says that a quota is used up.
type LimitError struct {
	What  string    // "jobs" or "manual runs an hour"
	Limit int       // the quota
	Until time.Time // when there is room again; zero when unknown
}

func (e *LimitError) Error() string { return fmt.Sprintf("limit of %d %s reached", e.Limit, e.What) }
