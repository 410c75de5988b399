package registry

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/almanac-scheduler/almanac/services/registry/internal/standintest"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store/sqlitestore"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store/storetest"
)

func openFolder(t *testing.T, folder string) *sqlitestore.Store {
	t.Helper()
	s, err := sqlitestore.Open(t.Context(), folder, sqlitestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // closing it twice is no error
	return s
}

func TestMigrate(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "source")
	s := openFolder(t, folder)
	filled := storetest.Fill(t, s, 1, 100)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(t.TempDir(), "target")
	args := []string{"migrate", "--from", "sqlite:" + folder, "--to", "sqlite:" + target, "--log-level", "error"}

	for _, step := range []struct {
		args []string
		want []string
	}{
		{args, []string{"verified equal", "users 2 0 2"}},
		{args, []string{"verified equal", "users 2 2 0"}},
		{append(args, "--dry-run"), []string{"nothing was written", "users 2 2 0"}},
	} {
		out, err := run(t, t.Context(), "", step.args...)
		if err != nil {
			t.Fatal(err)
		}
		out = strings.Join(strings.Fields(out), " ")
		for _, want := range step.want {
			if !strings.Contains(out, want) {
				t.Errorf("%s\nlacks %q", out, want)
			}
		}
	}
	filled.In(t, openFolder(t, target), openFolder(t, folder))
}

// To a MongoDB, on which a registry then works, and when that has ended, back.
func TestMigrateToMongoDB(t *testing.T) {
	folder, back := filepath.Join(t.TempDir(), "source"), filepath.Join(t.TempDir(), "back")
	s := openFolder(t, folder)
	storetest.Fill(t, s, 1, 100)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	uri := standintest.Start(t).URI + "almanac"
	move := func(from, to string) error {
		_, err := run(t, t.Context(), "", "migrate", "--from", from, "--to", to, "--store-allow-standalone", "--session-ttl", "1s", "--log-level", "error")
		return err
	}
	if err := move("sqlite:"+folder, uri); err != nil {
		t.Fatal(err)
	}

	ctx, stop := context.WithCancel(t.Context())
	ready, ended := make(chan Addresses, 1), make(chan error, 1)
	go func() {
		ended <- Run(ctx, Config{
			HTTPAddr: "127.0.0.1:0", GRPCAddr: "127.0.0.1:0", Store: uri, StoreAllowStandalone: true, Name: "registry-1",
			SessionTTL: time.Second, MissedAfter: time.Minute, LogFormat: "json", LogLevel: "error", Ready: func(a Addresses) { ready <- a },
		})
	}()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal("the registry ended: ", err)
	}
	if err := move(uri, "sqlite:"+back); err == nil || !strings.Contains(err.Error(), "registry-1") || !strings.Contains(err.Error(), "on the source") {
		t.Errorf("moved a store that a registry works on: %v", err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := move(uri, "sqlite:"+back); err != nil {
		t.Error(err)
	}
}

func TestMigrateRefuses(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "source")
	if err := openFolder(t, folder).Close(); err != nil {
		t.Fatal(err)
	}
	from, elsewhere := "sqlite:"+folder, "sqlite:"+filepath.Join(t.TempDir(), "elsewhere")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	held := filepath.Join(t.TempDir(), "held")
	openFolder(t, held)

	for name, c := range map[string]struct {
		ctx  context.Context
		args []string
		want string
	}{
		"no source":        {t.Context(), []string{"--to", from}, "from"},
		"no target":        {t.Context(), []string{"--from", from}, "to"},
		"the same":         {t.Context(), []string{"--from", from, "--to", from}, "--to: is the same"},
		"the same, folder": {t.Context(), []string{"--from", from, "--to", from + "/."}, "another process"},
		"store":            {t.Context(), []string{"--from", from, "--to", elsewhere, "--store", from}, "--store"},
		"nothing there":    {t.Context(), []string{"--from", elsewhere, "--to", from}, "there is no store in"},
		"dry, no target":   {t.Context(), []string{"--from", from, "--to", elsewhere, "--dry-run"}, "without --dry-run"},
		"no such store":    {t.Context(), []string{"--from", "paper:a", "--to", elsewhere}, "--from: store"},
		"no such target":   {t.Context(), []string{"--from", from, "--to", "paper:a"}, "--to: store"},
		"source in use":    {t.Context(), []string{"--from", "sqlite:" + held, "--to", elsewhere}, "--from: store: another process"},
		"target in use":    {t.Context(), []string{"--from", from, "--to", "sqlite:" + held}, "--to: store: another process"},
		"TTL":              {t.Context(), []string{"--from", from, "--to", elsewhere, "--session-ttl", "1ms"}, "--session-ttl"},
		"log level":        {t.Context(), []string{"--from", from, "--to", elsewhere, "--log-level", "loud"}, "log level"},
		"file":             {t.Context(), []string{"--from", from, "--to", elsewhere, "--config", "/nowhere"}, "/nowhere"},
		"interrupted":      {ended, []string{"--from", from, "--to", elsewhere}, "interrupted"},
	} {
		out, err := run(t, c.ctx, "", append([]string{"migrate"}, c.args...)...)
		if err == nil || !strings.Contains(err.Error(), c.want) || out != "" {
			t.Errorf("%s: %q, %v; want an error with %q", name, out, err, c.want)
		}
	}
}
