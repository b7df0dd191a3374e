package pgserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// minMajor is the oldest PostgreSQL that BearMQ supports.
const minMajor = 14

// binaries is one PostgreSQL installation that was seen to run.
type binaries struct {
	dir   string // holds initdb and postgres
	major int
}

func (b binaries) path(name string) string { return filepath.Join(b.dir, name) }

// places says where installations are looked for.
type places struct {
	explicit string   // BEARMQ_PG_BIN: when set, the only place
	path     string   // PATH
	usual    []string // glob patterns, highest version first within each
}

func systemPlaces() places {
	return places{
		explicit: os.Getenv("BEARMQ_PG_BIN"),
		path:     os.Getenv("PATH"),
		usual: []string{
			"/usr/lib/postgresql/*/bin",         // Debian, Ubuntu
			"/usr/pgsql-*/bin",                  // packages of postgresql.org for RHEL
			"/usr/libexec/postgresql*",          // Alpine
			"/usr/lib/postgresql*/bin",          // openSUSE
			"/usr/local/pgsql/bin",              // built from source
			"/usr/local/bin",                    // FreeBSD
			"/opt/homebrew/opt/postgresql*/bin", // Homebrew, Apple silicon
			"/usr/local/opt/postgresql*/bin",    // Homebrew, Intel
			"/home/linuxbrew/.linuxbrew/opt/postgresql*/bin",
			"/opt/local/lib/postgresql*/bin", // MacPorts
			"/Applications/Postgres.app/Contents/Versions/*/bin",
			"/Library/PostgreSQL/*/bin", // EDB's installer
		},
	}
}

// find returns the first installation that runs as acc and has the wanted major
// version (0: any that is supported).
func find(ctx context.Context, in places, acc account, wantMajor int) (binaries, error) {
	missing := &NotFoundError{Major: wantMajor, Install: installCommand()}
	tried := map[string]bool{}
	try := func(dir string) (binaries, bool) {
		dir = realDir(dir)
		if tried[dir] {
			return binaries{}, false
		}
		tried[dir] = true
		b, err := inspect(ctx, dir, acc)
		switch {
		case errors.Is(err, errAbsent):
			return b, false
		case err != nil:
			missing.Rejected = append(missing.Rejected, fmt.Sprintf("%s: %v", dir, err))
			return b, false
		case b.major < minMajor:
			missing.Rejected = append(missing.Rejected, fmt.Sprintf("%s: is PostgreSQL %d", dir, b.major))
			return b, false
		case wantMajor != 0 && b.major != wantMajor:
			missing.Rejected = append(missing.Rejected,
				fmt.Sprintf("%s: is PostgreSQL %d, the data need %d", dir, b.major, wantMajor))
			return b, false
		}
		return b, true
	}

	if in.explicit != "" {
		// Somebody chose it: falling back to another one would hide a typing error.
		missing.Looked = []string{"BEARMQ_PG_BIN=" + in.explicit}
		if b, ok := try(in.explicit); ok {
			return b, nil
		}
		if ctx.Err() != nil {
			return binaries{}, context.Cause(ctx)
		}
		return binaries{}, missing
	}
	missing.Looked = append([]string{"the directories of PATH"}, in.usual...)
	for _, dir := range filepath.SplitList(in.path) {
		if !filepath.IsAbs(dir) {
			continue
		}
		if b, ok := try(dir); ok {
			return b, nil
		}
	}
	for _, pattern := range in.usual {
		dirs, _ := filepath.Glob(pattern)
		slices.SortFunc(dirs, func(a, b string) int { return versionIn(b) - versionIn(a) })
		for _, dir := range dirs {
			if b, ok := try(dir); ok {
				return b, nil
			}
		}
	}
	if ctx.Err() != nil {
		return binaries{}, context.Cause(ctx)
	}
	return binaries{}, missing
}

// realDir follows the link of initdb when postgres lies beside its target, as
// with /usr/local/bin/initdb -> /usr/lib/postgresql/15/bin/initdb: the other
// programs (pg_ctl, psql, pg_dump) of that version are there.
func realDir(dir string) string {
	dir = filepath.Clean(dir)
	target, err := filepath.EvalSymlinks(filepath.Join(dir, "initdb"))
	if err != nil {
		return dir
	}
	dirOfTarget := filepath.Dir(target)
	if _, err := os.Stat(filepath.Join(dirOfTarget, "postgres")); err != nil {
		return dir
	}
	return dirOfTarget
}

// errAbsent says that a directory has nothing of PostgreSQL's server, which is
// the usual case and worth no line in a message.
var errAbsent = errors.New("neither initdb nor postgres is there")

// inspect runs initdb and postgres of a directory with --version. Their being
// there proves little: PATH may hold a wrapper, a dangling link, or a program
// that the account may not run.
func inspect(ctx context.Context, dir string, acc account) (binaries, error) {
	b := binaries{dir: dir}
	if !exists(b.path("initdb")) && !exists(b.path("postgres")) {
		return b, errAbsent
	}
	majors := map[string]int{}
	for _, name := range []string{"initdb", "postgres"} {
		if !exists(b.path(name)) {
			return b, fmt.Errorf("has no %s", name)
		}
		cmd := exec.CommandContext(ctx, b.path(name), "--version")
		cmd.Dir, cmd.Env = "/", cleanEnv(dir)
		acc.apply(cmd)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return b, fmt.Errorf("%s --version fails%s: %w", name, acc.suffix(), err)
		}
		if majors[name], err = parseMajor(string(out)); err != nil {
			return b, fmt.Errorf("%s --version: %w", name, err)
		}
	}
	if majors["initdb"] != majors["postgres"] {
		return b, fmt.Errorf("initdb is version %d and postgres version %d", majors["initdb"], majors["postgres"])
	}
	b.major = majors["postgres"]
	return b, nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

var versionOutput = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

// parseMajor reads "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)".
func parseMajor(out string) (int, error) {
	m := versionOutput.FindStringSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("no PostgreSQL version in %q", strings.TrimSpace(out))
	}
	return strconv.Atoi(m[1])
}

var lastNumber = regexp.MustCompile(`(\d+)[^\d]*$`)

// versionIn orders directories of one pattern: /usr/lib/postgresql/16/bin is 16,
// and so is Homebrew's postgresql@16/bin.
func versionIn(dir string) int {
	m := lastNumber.FindStringSubmatch(dir)
	if m == nil {
		return 0
	}
	n, _ := strconv.Atoi(m[1])
	return n
}

// cleanEnv is the environment of every program started here: the caller's
// without PGDATA, PGPORT, PGOPTIONS and the like, which would change what they
// do, and with messages in English, which are compared and shown.
func cleanEnv(binDir string) []string {
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return strings.HasPrefix(name, "PG") || strings.HasPrefix(name, "LC_") ||
			name == "LANG" || name == "LANGUAGE" || name == "TZ" || name == "PATH" || name == "HOME"
	})
	return append(env, "LC_ALL=C", "HOME=/", "PATH="+binDir+string(os.PathListSeparator)+os.Getenv("PATH"))
}
