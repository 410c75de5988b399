package sqlitestore

import (
	"testing"

	"go.uber.org/zap/zaptest"

	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store/storetest"
)

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) func() store.Store {
		folder := t.TempDir()
		return func() store.Store {
			t.Helper()
			s, err := Open(t.Context(), folder, Options{Log: zaptest.NewLogger(t)})
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
	})
}
