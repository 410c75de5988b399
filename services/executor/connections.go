package executor

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/mail"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/almanac-scheduler/almanac/pkg/template"
)

// Connection is a named destination. URI and URIFile exclude each other; the
// files keep secrets out of the configuration. What else it may and must have
// depends on its kind:
//
//   - mongodb: a URI mongodb://... or mongodb+srv://..., and a Database unless
//     the URI names it.
//   - bucket: file:///srv/exports, a folder that exists; or
//     s3://bucket?region=...&endpoint=...&path_style=true, its credentials as
//     KEY:SECRET@ before the bucket or in KeyFile and SecretFile. The region is
//     us-east-1 when absent; path_style is true when an endpoint is given.
//   - smtp: smtp://user:password@host:port?tls=starttls|tls|none, the password
//     also in SecretFile, and From.
//   - webhook: an address https://..., or the key of signatures in SecretFile, or
//     both.
//   - registry: the http(s)://host:port of a registry's REST API, and a token in
//     SecretFile.
//
// Any other kind is for templates of one's own, and needs a URI.
type Connection struct {
	Kind     string `yaml:"kind"`
	URI      string `yaml:"uri"`
	URIFile  string `yaml:"uri_file"`
	Database string `yaml:"database"`
	From     string `yaml:"from"`
	// KeyFile and SecretFile hold one line each.
	KeyFile    string `yaml:"key_file"`
	SecretFile string `yaml:"secret_file"`
}

const maxSecretBytes = 16 << 10

// connections reads the connections' secrets and checks what came of it. An
// error names the field, and quotes no secret.
func (c *Config) connections() (map[string]template.Connection, error) {
	read := make(map[string]template.Connection, len(c.Connections))
	for _, name := range slices.Sorted(maps.Keys(c.Connections)) {
		connection, err := c.Connections[name].read()
		if err != nil {
			return nil, fmt.Errorf("connections.%s.%w", name, err)
		}
		read[name] = connection
	}
	return read, nil
}

// read returns the connection as templates get it. Its error begins with the
// field.
func (c Connection) read() (template.Connection, error) {
	read := template.Connection{Kind: c.Kind, URI: c.URI, Database: c.Database, From: c.From}
	var key string
	for _, file := range []struct {
		field, path string
		into        *string
	}{{"uri_file", c.URIFile, &read.URI}, {"key_file", c.KeyFile, &key}, {"secret_file", c.SecretFile, &read.Secret}} {
		if file.path == "" {
			continue
		}
		content, err := readSmall(file.path, maxSecretBytes)
		if err != nil {
			return read, fmt.Errorf("%s: %w", file.field, err)
		}
		if *file.into = strings.TrimSpace(content); *file.into == "" {
			return read, fmt.Errorf("%s: %s is empty", file.field, file.path)
		}
	}
	if c.From != "" && c.Kind != template.KindSMTP {
		return read, fmt.Errorf("from: is for the kind %q only: remove it", template.KindSMTP)
	}
	if c.Database != "" && slices.Contains([]string{template.KindBucket, template.KindSMTP, template.KindWebhook, template.KindRegistry}, c.Kind) {
		return read, fmt.Errorf("database: is not for the kind %q: remove it", c.Kind)
	}
	if c.KeyFile != "" && c.Kind != template.KindBucket {
		return read, fmt.Errorf("key_file: is for the kind %q only: remove it", template.KindBucket)
	}
	switch c.Kind {
	case template.KindMongoDB:
		return read, checkMongoDB(read)
	case template.KindBucket:
		return bucket(read, key)
	case template.KindSMTP:
		return smtp(read)
	case template.KindWebhook:
		if read.URI == "" && read.Secret == "" {
			return read, errors.New("uri: or a secret_file is required")
		}
		return read, checkWeb(read.URI, read.URI != "", true)
	case template.KindRegistry:
		if read.Secret == "" {
			return read, errors.New("secret_file: is required: the file that holds the token")
		}
		return read, checkWeb(read.URI, true, false)
	}
	return read, nil
}

func checkMongoDB(c template.Connection) error {
	if !strings.HasPrefix(c.URI, "mongodb://") && !strings.HasPrefix(c.URI, "mongodb+srv://") {
		return errors.New("uri: must begin with mongodb:// or mongodb+srv://")
	}
	if c.Secret != "" {
		return errors.New("secret_file: is not for the kind mongodb: put the whole URI into uri_file")
	}
	return nil
}

// checkWeb checks an HTTP address, whose path may be there or not.
func checkWeb(uri string, required, path bool) error {
	u, err := url.Parse(uri)
	switch {
	case !required:
		return nil
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return errors.New("uri: must be http://host:port or https://host")
	case u.User != nil:
		return errors.New("uri: must have no user and password")
	case !path && strings.Trim(u.Path, "/") != "":
		return errors.New("uri: must have no path: give the address of the registry alone")
	}
	return nil
}

// bucket completes a bucket's URI with its credentials.
func bucket(c template.Connection, key string) (template.Connection, error) {
	const forms = "uri: must be file:///absolute/folder or s3://bucket?region=...; " +
		"characters such as / in credentials are written as %2F, or go into key_file and secret_file"
	u, err := url.Parse(c.URI)
	if err != nil {
		return c, errors.New(forms)
	}
	switch u.Scheme {
	case "file":
		folder := c.Folder()
		if u.Host != "" || u.User != nil || !filepath.IsAbs(folder) || folder == "/" {
			return c, errors.New(forms)
		}
		if key != "" || c.Secret != "" {
			return c, errors.New("key_file: and secret_file are not for folders: remove them")
		}
		if info, err := os.Stat(folder); err != nil || !info.IsDir() {
			// It is not created here: what is missing may be a mount.
			return c, fmt.Errorf("uri: %s must be a folder that exists", folder)
		}
	case "s3":
		if u.Host == "" || strings.Trim(u.Path, "/") != "" {
			return c, errors.New(forms)
		}
		for name := range u.Query() {
			if name != "region" && name != "endpoint" && name != "path_style" {
				return c, errors.New("uri: after the ? only region, endpoint and path_style (true or false) are known")
			}
		}
		if (key == "") != (c.Secret == "") {
			return c, errors.New("key_file: and secret_file go together: give both or none")
		}
		if key != "" {
			if u.User != nil {
				return c, errors.New("key_file: and credentials in the URI exclude each other: drop one of them")
			}
			u.User = url.UserPassword(key, c.Secret)
			c.URI, c.Secret = u.String(), ""
		}
		if secret, ok := u.User.Password(); !ok || secret == "" || u.User.Username() == "" {
			return c, errors.New("uri: needs credentials, KEY:SECRET@ before the bucket, or key_file and secret_file: runs see none of this machine's")
		}
	default:
		return c, errors.New(forms)
	}
	return c, nil
}

// smtp completes a mail server's URI with its password.
func smtp(c template.Connection) (template.Connection, error) {
	u, err := url.Parse(c.URI)
	if err != nil || u.Scheme != "smtp" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" {
		return c, errors.New("uri: must be smtp://user:password@host:port?tls=starttls, tls or none; " +
			"characters such as / in the password are written as %2F, or go into secret_file")
	}
	for name, values := range u.Query() {
		if name != "tls" || len(values) != 1 || !slices.Contains([]string{"starttls", "tls", "none"}, values[0]) {
			return c, errors.New("uri: after the ? only tls=starttls, tls=tls or tls=none is known")
		}
	}
	_, inside := u.User.Password()
	if c.Secret != "" {
		if inside || u.User.Username() == "" {
			return c, errors.New("secret_file: needs a user without a password in the URI: smtp://user@host")
		}
		u.User = url.UserPassword(u.User.Username(), c.Secret)
		c.URI, c.Secret, inside = u.String(), "", true
	}
	if u.User != nil && !inside {
		return c, errors.New("uri: has a user but no password: add it, or a secret_file")
	}
	if from, err := mail.ParseAddress(c.From); err != nil || strings.ContainsAny(from.Address, "\r\n") {
		return c, errors.New(`from: must be a mail address, such as "Almanac <almanac@example.com>"`)
	}
	return c, nil
}

func readSmall(path string, most int64) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, most+1))
	if err == nil && int64(len(content)) > most {
		err = fmt.Errorf("%s is larger than %d KiB", path, most>>10)
	}
	return string(content), err
}

// shareFolders lets runs into the folders that are buckets. When the executor is
// root, runs are another user's: then that user's group becomes the folder's
// and may write there. The owner stays, and nobody else gains anything. What is
// inside already keeps its owner.
func shareFolders(connections map[string]template.Connection, gid int) error {
	for _, name := range slices.Sorted(maps.Keys(connections)) {
		folder := connections[name].Folder()
		if folder == "" || os.Getuid() != 0 {
			continue
		}
		info, err := os.Stat(folder)
		if err == nil {
			err = os.Chown(folder, -1, gid)
		}
		if err == nil {
			err = os.Chmod(folder, info.Mode()|0o070)
		}
		if err != nil {
			return fmt.Errorf("connections.%s.uri: letting runs into the folder: %w", name, err)
		}
	}
	return nil
}
