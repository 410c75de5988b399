package mongostore

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/almanac-scheduler/almanac/services/registry/internal/standintest"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store/storetest"
)

var databases atomic.Int64

// newDatabase returns a URI with a database of its own, which is dropped after
// the test where the server stays.
func newDatabase(t *testing.T, server string) string {
	t.Helper()
	base, query, _ := strings.Cut(server, "?")
	name := fmt.Sprintf("almanac_test_%d", databases.Add(1))
	uri := strings.TrimSuffix(base, "/") + "/" + name
	if query != "" {
		uri += "?" + query
	}
	return uri
}

// begin opens a store on the URI that ends with the test.
func begin(t *testing.T, uri string, tune func(*options.ClientOptions)) *Store {
	t.Helper()
	s, err := open(t.Context(), testOptions(t, uri), tune)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func testOptions(t *testing.T, uri string) Options {
	return Options{URI: uri, AllowStandalone: true, Log: zaptest.NewLogger(t, zaptest.Level(zap.ErrorLevel))}
}

func TestConformance(t *testing.T) {
	server, stays := standintest.URI(t)
	suite := storetest.RunSmall
	if stays { // a real server has the time
		suite = storetest.Run
	}
	suite(t, func(t *testing.T) func() store.Store {
		uri := newDatabase(t, server)
		if stays {
			t.Cleanup(func() { drop(t, uri) })
		}
		return func() store.Store {
			s, err := Open(t.Context(), testOptions(t, uri))
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
	})
}

func drop(t *testing.T, uri string) {
	t.Helper()
	s, err := open(context.WithoutCancel(t.Context()), testOptions(t, uri), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.meta.Database().Drop(context.WithoutCancel(t.Context())); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
