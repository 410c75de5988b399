package builtin

import (
	"context"
	"time"
)

// wait returns after d, or earlier with ctx's error. It is the only place of
// this package where time passes by waiting.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d) //nolint:forbidigo // the one place where a template waits; tests run it on synctest's fake time
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
