package executor

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/almanac-scheduler/almanac/pkg/template"
)

func TestConnectionsAreRead(t *testing.T) {
	secret := write(t, "secret", "hu/sh\n")
	folder := t.TempDir()
	for name, c := range map[string]struct {
		given Connection
		want  template.Connection
	}{
		"mongodb": {
			Connection{Kind: "mongodb", URIFile: write(t, "uri", "mongodb://u:p@a:1,b:2\n"), Database: "app"},
			template.Connection{Kind: "mongodb", URI: "mongodb://u:p@a:1,b:2", Database: "app"},
		},
		"folder": {Connection{Kind: "bucket", URI: "file://" + folder}, template.Connection{Kind: "bucket", URI: "file://" + folder}},
		"s3": {
			Connection{Kind: "bucket", URI: "s3://KEY:hu%2Fsh@exports?region=eu"}, template.Connection{Kind: "bucket", URI: "s3://KEY:hu%2Fsh@exports?region=eu"},
		},
		"s3 by files": {
			Connection{Kind: "bucket", URI: "s3://exports?region=eu", KeyFile: write(t, "key", "KEY"), SecretFile: secret},
			template.Connection{Kind: "bucket", URI: "s3://KEY:hu%2Fsh@exports?region=eu"},
		},
		"smtp": {
			Connection{Kind: "smtp", URI: "smtp://u@mail:587?tls=starttls", SecretFile: secret, From: "Almanac <a@b.example>"},
			template.Connection{Kind: "smtp", URI: "smtp://u:hu%2Fsh@mail:587?tls=starttls", From: "Almanac <a@b.example>"},
		},
		"smtp without login": {
			Connection{Kind: "smtp", URI: "smtp://localhost:25?tls=none", From: "a@b.example"}, template.Connection{Kind: "smtp", URI: "smtp://localhost:25?tls=none", From: "a@b.example"},
		},
		"webhook":   {Connection{Kind: "webhook", URI: "https://chat.example/T1?x=y"}, template.Connection{Kind: "webhook", URI: "https://chat.example/T1?x=y"}},
		"signature": {Connection{Kind: "webhook", SecretFile: secret}, template.Connection{Kind: "webhook", Secret: "hu/sh"}},
		"registry": {
			Connection{Kind: "registry", URI: "http://localhost:8080/", SecretFile: secret}, template.Connection{Kind: "registry", URI: "http://localhost:8080/", Secret: "hu/sh"},
		},
		"another": {Connection{Kind: "redis", URI: "redis://r", Database: "3"}, template.Connection{Kind: "redis", URI: "redis://r", Database: "3"}},
	} {
		t.Run(name, func(t *testing.T) {
			config := Config{Connections: map[string]Connection{"x": c.given}}
			read, err := config.connections()
			// Compared field by field in effect: it has no pointers.
			if err != nil || read["x"] != c.want {
				t.Errorf("read %+v with URI %q and secret %q, %v", read["x"], read["x"].URI, read["x"].Secret, err)
			}
		})
	}
}

func TestBadConnectionsNameTheField(t *testing.T) {
	secret, key := write(t, "secret", "hush"), write(t, "key", "KEY")
	missing := filepath.Join(t.TempDir(), "missing")
	for name, c := range map[string]struct {
		given Connection
		want  string
	}{
		"no file":                 {Connection{Kind: "mongodb", URIFile: missing}, "uri_file: open " + missing},
		"empty file":              {Connection{Kind: "mongodb", URIFile: os.DevNull}, "uri_file: /dev/null is empty"},
		"endless file":            {Connection{Kind: "webhook", SecretFile: "/dev/zero"}, "secret_file: /dev/zero is larger than 16 KiB"},
		"from":                    {Connection{Kind: "mongodb", URI: "mongodb://x", From: "a@b"}, `from: is for the kind "smtp" only`},
		"database":                {Connection{Kind: "smtp", URI: "smtp://x", Database: "a"}, `database: is not for the kind "smtp"`},
		"key":                     {Connection{Kind: "smtp", URI: "smtp://x", KeyFile: key}, `key_file: is for the kind "bucket" only`},
		"mongodb scheme":          {Connection{Kind: "mongodb", URI: "postgres://u:hush@x"}, "uri: must begin with mongodb://"},
		"mongodb secret":          {Connection{Kind: "mongodb", URI: "mongodb://x", SecretFile: secret}, "secret_file: is not for the kind mongodb"},
		"bucket scheme":           {Connection{Kind: "bucket", URI: "ftp://u:hush@x"}, "uri: must be file:///absolute/folder"},
		"bucket no URI":           {Connection{Kind: "bucket", URI: "s3://KEY:hu/sh@x"}, "uri: must be file:///absolute/folder"},
		"relative folder":         {Connection{Kind: "bucket", URI: "file://data/exports"}, "uri: must be file:///absolute/folder"},
		"everything":              {Connection{Kind: "bucket", URI: "file:///a/.."}, "uri: must be file:///absolute/folder"},
		"folder with key":         {Connection{Kind: "bucket", URI: "file:///tmp", KeyFile: key}, "key_file: and secret_file are not for folders"},
		"missing folder":          {Connection{Kind: "bucket", URI: "file://" + missing}, "uri: " + missing + " must be a folder that exists"},
		"folder is a file":        {Connection{Kind: "bucket", URI: "file://" + key}, "must be a folder that exists"},
		"s3 with a path":          {Connection{Kind: "bucket", URI: "s3://KEY:hush@x/y"}, "uri: must be file:///absolute/folder"},
		"s3 with another option":  {Connection{Kind: "bucket", URI: "s3://KEY:hush@x?regoin=eu"}, "uri: after the ? only region, endpoint and path_style"},
		"s3 without credentials":  {Connection{Kind: "bucket", URI: "s3://x"}, "uri: needs credentials"},
		"s3 without secret":       {Connection{Kind: "bucket", URI: "s3://KEY@x"}, "uri: needs credentials"},
		"s3 with half":            {Connection{Kind: "bucket", URI: "s3://x", SecretFile: secret}, "key_file: and secret_file go together"},
		"s3 with both":            {Connection{Kind: "bucket", URI: "s3://K:hush@x", SecretFile: secret, KeyFile: key}, "key_file: and credentials in the URI exclude"},
		"smtp scheme":             {Connection{Kind: "smtp", URI: "smtps://x", From: "a@b"}, "uri: must be smtp://"},
		"smtp not to be parsed":   {Connection{Kind: "smtp", URI: "smtp://u:hu/sh@x", From: "a@b"}, "uri: must be smtp://"},
		"smtp tls":                {Connection{Kind: "smtp", URI: "smtp://x?tls=yes", From: "a@b"}, "uri: after the ?"},
		"smtp option":             {Connection{Kind: "smtp", URI: "smtp://x?insecure=1", From: "a@b"}, "uri: after the ?"},
		"smtp without password":   {Connection{Kind: "smtp", URI: "smtp://u@x", From: "a@b"}, "uri: has a user but no password"},
		"smtp password, no user":  {Connection{Kind: "smtp", URI: "smtp://x", From: "a@b", SecretFile: secret}, "secret_file: needs a user"},
		"smtp without from":       {Connection{Kind: "smtp", URI: "smtp://x"}, "from: must be a mail address"},
		"smtp from two":           {Connection{Kind: "smtp", URI: "smtp://x", From: "a@b, c@d"}, "from: must be a mail address"},
		"webhook with nothing":    {Connection{Kind: "webhook"}, "uri: or a secret_file is required"},
		"webhook scheme":          {Connection{Kind: "webhook", URI: "ftp://x"}, "uri: must be http"},
		"webhook with password":   {Connection{Kind: "webhook", URI: "https://u:hush@x"}, "uri: must have no user"},
		"registry without token":  {Connection{Kind: "registry", URI: "http://x"}, "secret_file: is required"},
		"registry with a path":    {Connection{Kind: "registry", URI: "http://x/api", SecretFile: secret}, "uri: must have no path"},
		"registry without scheme": {Connection{Kind: "registry", URI: "x:80", SecretFile: secret}, "uri: must be http"},
	} {
		t.Run(name, func(t *testing.T) {
			config := Config{Connections: map[string]Connection{"main": c.given}}
			_, err := config.connections()
			if err == nil || !strings.HasPrefix(err.Error(), "connections.main.") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			} else if strings.Contains(err.Error(), "hu") && !strings.Contains(c.want, "hu") {
				t.Errorf("the error gives a secret away: %v", err)
			}
		})
	}
}

// TestFoldersAreShared: the runs' group may write to a bucket's folder, others
// still not, and its owner stays.
func TestFoldersAreShared(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "exports")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	connections := map[string]template.Connection{"exports": {Kind: "bucket", URI: "file://" + folder}, "mail": {Kind: "smtp", URI: "smtp://m"}}
	if err := shareFolders(connections, nobody); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(folder)
	if err != nil {
		t.Fatal(err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		t.Fatal("no ownership")
	}
	mode, group := os.FileMode(0o700), uint32(os.Getgid())
	if os.Getuid() == 0 {
		mode, group = 0o770, nobody
	}
	if info.Mode().Perm() != mode || stat.Gid != group || stat.Uid != uint32(os.Getuid()) {
		t.Errorf("mode %v, user %d, group %d; want mode %v and group %d", info.Mode(), stat.Uid, stat.Gid, mode, group)
	}
	connections["exports"] = template.Connection{Kind: "bucket", URI: "file://" + folder + "/gone"}
	if err := shareFolders(connections, nobody); os.Getuid() == 0 && (err == nil || !strings.Contains(err.Error(), "connections.exports.uri: letting runs into the folder")) {
		t.Errorf("a folder that is gone: %v", err)
	}
}
