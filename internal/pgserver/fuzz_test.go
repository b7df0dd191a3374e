package pgserver

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// FuzzConfiguration reads the configuration file as PostgreSQL does: each setting stands in it once, as it was given.
func FuzzConfiguration(f *testing.F) {
	f.Add("work_mem", "4MB")
	f.Add("Search_Path", `a'b\c"''\\`)
	f.Add("x", "a\nport = 1")
	f.Add("x = 1\ny", "1")
	f.Add("port", "1")
	f.Add("DATA_DIRECTORY", "/")
	f.Add("custom.name", "# not a comment")
	f.Add("", "")
	f.Fuzz(func(t *testing.T, name, value string) {
		text, err := configuration(map[string]string{name: value})
		name = strings.ToLower(name)
		if err != nil {
			require.Empty(t, text)
			return
		}
		require.NotContains(t, fixed, name)
		read := map[string]string{}
		for line := range strings.Lines(text) {
			line = strings.TrimSuffix(line, "\n")
			if strings.HasPrefix(line, "#") {
				continue
			}
			name, quoted, ok := strings.Cut(line, " = '")
			require.True(t, ok, "%q", line)
			require.NotContains(t, read, name)
			value, rest := unquote(quoted)
			require.Empty(t, rest, "%q", line)
			read[name] = value
		}
		require.Equal(t, value, read[name])
		require.Contains(t, read, "fsync")
	})
}

// unquote reads a value of postgresql.conf up to its closing quote.
func unquote(s string) (value, rest string) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s), s[i] == '\'' && i+1 < len(s) && s[i+1] == '\'':
			i++
			b.WriteByte(s[i])
		case s[i] == '\'':
			return b.String(), s[i+1:]
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String(), "a quote that does not end"
}

// FuzzSocketURL: pgx reads back where the server is, whatever its directory is called.
func FuzzSocketURL(f *testing.F) {
	f.Add("/tmp/a b", 5432)
	f.Add("/tmp/ü?&=%20#'\\+", 1)
	f.Add("/", 65535)
	f.Fuzz(func(t *testing.T, dir string, port int) {
		dir = "/" + strings.NewReplacer("\x00", "", ",", "").Replace(dir) // as makeDir wants it
		port = 1 + (port&0xffff)%65535
		s := &Server{sockets: dir, port: port, url: "postgres://postgres@127.0.0.1/postgres"}
		config, err := pgx.ParseConfig(s.SocketURL())
		require.NoError(t, err, s.SocketURL())
		require.Equal(t, dir, config.Host)
		require.Equal(t, port, int(config.Port))
		require.Equal(t, "postgres", config.User)
	})
}

// FuzzRunningURL: a connection string that cannot be used is an error that says where it came from, and no server is
// started instead.
func FuzzRunningURL(f *testing.F) {
	for _, url := range []string{"postgres://", "nonsense", "host=", "postgres://u:p@[::1", "port=x", "postgres://h:99999/db", "\x00", "%zz", "sslmode=maybe"} {
		f.Add(url)
	}
	f.Fuzz(func(t *testing.T, url string) {
		if _, err := pgx.ParseConfig(url); err == nil || url == "" {
			return // it would be connected to
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		server, err := Open(ctx, Options{URL: url})
		require.Nil(t, server)
		require.ErrorContains(t, err, "the server of Options.URL cannot be used")
		_, err = Open(ctx, Options{URL: url, Private: true})
		require.ErrorContains(t, err, "exclude each other")
		_, err = Open(ctx, Options{URL: url, DataDir: os.TempDir()})
		require.ErrorContains(t, err, "unset one of them")
	})
}

// FuzzVersions reads what programs print about themselves.
func FuzzVersions(f *testing.F) {
	for _, text := range []string{"postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", "initdb (PostgreSQL) 99999999999999999999", "(PostgreSQL) ", "18beta1",
		"/usr/lib/postgresql/16/bin", "/opt/postgresql@17/bin", "ID=debian\nVERSION_ID=\"12\"", "ID_LIKE='rhel fedora'\n=\n", "9.4"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if major, err := parseMajor(text); err == nil {
			require.GreaterOrEqual(t, major, 0)
			require.Contains(t, text, "(PostgreSQL) ")
		}
		require.GreaterOrEqual(t, versionIn(text), 0)
		majorOf(text)
		for name := range parseOSRelease(text) {
			require.Contains(t, text, name)
		}
		require.NotEmpty(t, installCommandFor(text, false))
		require.False(t, strings.HasPrefix(installCommandFor(text, true), "sudo "), "root needs no sudo")
	})
}
