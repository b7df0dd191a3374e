//go:build unix

package pgserver

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// install writes an installation whose programs only know --version.
func install(t *testing.T, dir string, versions map[string]string) string {
	t.Helper()
	require.NoError(t, os.MkdirAll(dir, 0o755))
	for name, version := range versions {
		script := fmt.Sprintf("#!/bin/sh\necho '%s (PostgreSQL) %s'\n", name, version)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755))
	}
	return dir
}

func both(version string) map[string]string {
	return map[string]string{"initdb": version, "postgres": version}
}

func TestFind(t *testing.T) {
	t.Parallel()
	tmp := t.TempDir()
	at := func(elem ...string) string { return filepath.Join(append([]string{tmp}, elem...)...) }
	usual := []string{at("lib", "*", "bin")}
	for _, version := range []string{"9.6", "13.2", "15.18", "18.0"} {
		install(t, at("lib", strings.SplitN(version, ".", 2)[0], "bin"), both(version))
	}
	old := install(t, at("old"), both("13.4"))
	wrapper := install(t, at("wrapper"), map[string]string{"postgres": "16.1"})
	mixed := install(t, at("mixed"), map[string]string{"postgres": "16.1", "initdb": "15.2"})
	silent := install(t, at("silent"), both("16.1"))
	require.NoError(t, os.WriteFile(filepath.Join(silent, "postgres"), []byte("#!/bin/sh\nexit 3\n"), 0o755))
	dull := install(t, at("dull"), both("16.1"))
	require.NoError(t, os.Chmod(filepath.Join(dull, "initdb"), 0o644))
	dangling := at("dangling")
	require.NoError(t, os.Mkdir(dangling, 0o755))
	for _, name := range []string{"initdb", "postgres"} {
		require.NoError(t, os.Symlink(at("nowhere", name), filepath.Join(dangling, name)))
	}
	linked := at("linked")
	require.NoError(t, os.Mkdir(linked, 0o755))
	for _, name := range []string{"initdb", "postgres"} {
		require.NoError(t, os.Symlink(at("lib", "15", "bin", name), filepath.Join(linked, name)))
	}
	path := func(dirs ...string) string { return strings.Join(dirs, string(os.PathListSeparator)) }

	for name, test := range map[string]struct {
		in       places
		major    int
		want     string
		rejected string
	}{
		"the highest of the usual places":   {in: places{usual: usual}, want: at("lib", "18", "bin")},
		"the version of the data":           {in: places{usual: usual}, major: 15, want: at("lib", "15", "bin")},
		"PATH goes first":                   {in: places{path: path(tmp, linked), usual: usual}, want: at("lib", "15", "bin")},
		"unusable ones in PATH are passed":  {in: places{path: path(old, wrapper, mixed, silent, dull, dangling, "", "relative"), usual: usual}, want: at("lib", "18", "bin")},
		"BEARMQ_PG_BIN goes before all":     {in: places{explicit: at("lib", "15", "bin"), usual: usual}, want: at("lib", "15", "bin")},
		"a wrong BEARMQ_PG_BIN is an error": {in: places{explicit: old, usual: usual}, rejected: "is PostgreSQL 13"},
		"an empty BEARMQ_PG_BIN directory":  {in: places{explicit: tmp, usual: usual}, rejected: ""},
		"a wrapper alone":                   {in: places{path: wrapper}, rejected: "has no initdb"},
		"two versions in one directory":     {in: places{path: mixed}, rejected: "initdb is version 15 and postgres version 16"},
		"a program that fails":              {in: places{path: silent}, rejected: "postgres --version fails: exit status 3"},
		"a program that cannot be executed": {in: places{path: dull}, rejected: "permission denied"},
		"a link to nothing":                 {in: places{path: dangling}, rejected: "no such file"},
		"a version that is not there":       {in: places{usual: usual}, major: 17, rejected: "the data need 17"},
		"nothing anywhere":                  {in: places{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := find(t.Context(), test.in, account{}, test.major)
			if test.want != "" {
				require.NoError(t, err)
				require.Equal(t, test.want, got.dir)
				return
			}
			var missing *NotFoundError
			require.ErrorAs(t, err, &missing)
			require.Equal(t, test.rejected != "", len(missing.Rejected) > 0)
			require.Contains(t, err.Error(), test.rejected)
		})
	}
}

// TestNoPostgreSQL reads the message as somebody who has just cloned the repository.
func TestNoPostgreSQL(t *testing.T) {
	t.Parallel()
	empty := t.TempDir()
	_, err := open(t.Context(), Options{Private: true}, places{path: empty, usual: []string{empty + "/*/bin"}})
	var missing *NotFoundError
	require.ErrorAs(t, err, &missing)
	for _, part := range []string{"initdb and postgres", "PATH", empty + "/*/bin", missing.Install, "DATABASE_URL", "BEARMQ_PG_BIN", "14"} {
		assert.Contains(t, err.Error(), part)
	}
	entries, err := os.ReadDir(empty)
	require.NoError(t, err)
	require.Empty(t, entries)
}

func TestInstallCommand(t *testing.T) {
	t.Parallel()
	script, err := os.ReadFile("../../scripts/postgres")
	require.NoError(t, err)
	for release, want := range map[string]string{
		"ID=debian\nVERSION_ID=\"12\"":                                     "apt-get install -y postgresql",
		"ID=linuxmint\nID_LIKE=\"ubuntu debian\"":                          "apt-get install -y postgresql",
		"ID=fedora\nVERSION_ID=42":                                         "dnf install -y postgresql-server",
		"ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\nVERSION_ID=\"9.4\"": "dnf module enable -y postgresql:16 && dnf install -y postgresql-server",
		"ID=\"rhel\"\nID_LIKE=\"fedora\"\nVERSION_ID=\"10.0\"":             "dnf install -y postgresql-server",
		"ID=alpine": "apk add postgresql",
		"ID=arch":   "pacman -S --noconfirm postgresql",
		"ID=\"opensuse-leap\"\nID_LIKE=\"suse opensuse\"": "zypper install -y postgresql-server",
	} {
		assert.Equal(t, want, installCommandFor(release, true))
		assert.True(t, strings.HasPrefix(installCommandFor(release, false), "sudo "))
		for part := range strings.SplitSeq(want, " && ") {
			assert.Contains(t, string(script), part, "scripts/postgres must do what the message says")
		}
	}
	assert.Contains(t, installCommandFor("ID=plan9", true), "package manager")
	assert.Contains(t, installCommandFor("", false), "package manager")
}

// TestWrapper starts through scripts that stay above the real programs: signals
// would end the script and not the server.
func TestWrapper(t *testing.T) {
	t.Parallel()
	acc, err := serverAccount()
	require.NoError(t, err)
	found, err := find(t.Context(), systemPlaces(), acc, 0)
	require.NoError(t, err)
	dir := tempDir(t)
	for _, name := range []string{"initdb", "postgres"} {
		script := fmt.Sprintf("#!/bin/sh\n'%s' \"$@\"\n", found.path(name))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755))
	}
	_, err = open(t.Context(), Options{Private: true, Settings: small}, places{explicit: dir})
	require.ErrorContains(t, err, "is a wrapper that does not become PostgreSQL")
}
