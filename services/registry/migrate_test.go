package registry

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

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
