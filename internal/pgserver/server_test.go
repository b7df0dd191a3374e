//go:build unix

package pgserver

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// helperEnv makes the test binary the owner of a private server instead: it
// prints a [report] and then waits to be killed. Its value is the data
// directory, or "-" for a temporary one.
const helperEnv = "BEARMQ_PGSERVER_TEST_HELPER"

type report struct {
	Dir, URL string
	PID      int
}

func TestMain(m *testing.M) {
	dir := os.Getenv(helperEnv)
	if dir == "" {
		os.Exit(m.Run())
	}
	if dir == "-" {
		dir = ""
	}
	s, err := Open(context.Background(), Options{Private: true, DataDir: dir, Settings: small})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if err := json.NewEncoder(os.Stdout).Encode(report{s.DataDir(), s.URL(), s.PID()}); err != nil {
		os.Exit(1)
	}
	select {}
}

// small lets many servers run at once.
var small = map[string]string{"shared_buffers": "8MB", "max_connections": "20"}

func openPrivate(t *testing.T, o Options) *Server {
	t.Helper()
	o.Private = true
	if o.Settings == nil {
		o.Settings = small
	}
	s, err := Open(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Close()) })
	return s
}

func query[T any](t *testing.T, url, sql string) T {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	var v T
	require.NoError(t, conn.QueryRow(t.Context(), sql).Scan(&v))
	return v
}

func execute(t *testing.T, url, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	_, err = conn.Exec(t.Context(), sql)
	require.NoError(t, err)
}

// requireGone waits until the process and its children have ended, and the
// directory is no more.
func requireGone(t *testing.T, pid int, dir string) {
	t.Helper()
	require.Eventually(t, func() bool { return !alive(pid) }, 20*time.Second, 20*time.Millisecond, "server %d still runs", pid)
	require.Eventually(t, func() bool {
		_, err := os.Stat(dir)
		return errors.Is(err, fs.ErrNotExist)
	}, 20*time.Second, 20*time.Millisecond, "%s is still there", dir)
}

// alive says whether a process still holds anything. One that has given up its
// files and memory may be listed a moment longer, and as an orphan until the
// system reaps it.
func alive(pid int) bool {
	if runtime.GOOS == "linux" {
		files, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid)) // of a dead one only root may ask
		return len(files) > 0
	}
	state, err := exec.Command("ps", "-o", "stat=", "-p", strconv.Itoa(pid)).Output()
	return err == nil && !bytes.HasPrefix(bytes.TrimSpace(state), []byte("Z"))
}

func TestPrivateServer(t *testing.T) {
	t.Parallel()
	s, err := Open(t.Context(), Options{Private: true})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Close()) })
	require.True(t, s.Private())
	pid, dir := s.PID(), s.DataDir()
	require.NotZero(t, pid)
	require.FileExists(t, filepath.Join(s.BinDir(), "initdb"))

	for name, want := range map[string]string{
		"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on",
		"shared_buffers": "256MB", "max_connections": "200", "max_wal_size": "4GB",
		"server_encoding": "UTF8", "TimeZone": "UTC", "listen_addresses": "127.0.0.1",
	} {
		assert.Equal(t, want, query[string](t, s.URL(), "SHOW "+name), name)
	}
	assert.Equal(t, "C", query[string](t, s.URL(), "SELECT datcollate FROM pg_database WHERE datname = 'postgres'"))
	assert.Equal(t, "tcp", query[string](t, s.URL(), "SELECT CASE WHEN inet_server_addr() IS NULL THEN 'unix' ELSE 'tcp' END"))
	assert.Equal(t, "unix", query[string](t, s.SocketURL(), "SELECT CASE WHEN inet_server_addr() IS NULL THEN 'unix' ELSE 'tcp' END"))
	assert.Contains(t, s.LogTail(), "ready to accept connections")

	require.NoError(t, s.Close())
	require.False(t, alive(pid), "Close returned before the server's end")
	require.NoDirExists(t, dir)
	require.NoError(t, s.Close(), "a second Close")
	require.ErrorContains(t, s.Start(t.Context()), "closed")
}

func TestSettings(t *testing.T) {
	t.Parallel()
	s := openPrivate(t, Options{Settings: map[string]string{
		"shared_buffers": "8MB", "max_connections": "20", "work_mem": "5MB", "search_path": `"it's", a\b`,
	}})
	assert.Equal(t, "5MB", query[string](t, s.URL(), "SHOW work_mem"))
	assert.Equal(t, `"it's", a\b`, query[string](t, s.URL(), "SHOW search_path"))

	execute(t, s.URL(), "ALTER SYSTEM SET work_mem = '6MB'")
	require.NoError(t, s.Restart(t.Context()))
	assert.Equal(t, "6MB", query[string](t, s.URL(), "SHOW work_mem"), "ALTER SYSTEM goes above Settings")

	for name, settings := range map[string]map[string]string{
		"chosen by pgserver": {"port": "1"},
		"not the name":       {"a b": "1"},
		"line break":         {"work_mem": "1MB\nfsync=off"},
	} {
		_, err := Open(t.Context(), Options{Private: true, Settings: settings})
		assert.ErrorContains(t, err, name)
	}
}

func TestServerThatDoesNotStart(t *testing.T) {
	t.Parallel()
	_, err := Open(t.Context(), Options{Private: true, Settings: map[string]string{"no_such_setting": "1"}})
	require.ErrorContains(t, err, "no_such_setting", "the error must hold the server's log")
}

func TestCancelledOpen(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("no longer wanted")
	cancel(why)
	_, err := Open(ctx, Options{Private: true})
	require.ErrorIs(t, err, why)
}

func TestDataDir(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(tempDir(t), "a directory", "data")
	first := openPrivate(t, Options{DataDir: dir})
	require.Equal(t, dir, first.DataDir())
	execute(t, first.URL(), "CREATE TABLE kept AS SELECT 42 AS n")

	_, err := Open(t.Context(), Options{Private: true, DataDir: dir, Settings: small})
	require.ErrorContains(t, err, "postmaster.pid", "a directory in use")
	require.Equal(t, 42, query[int](t, first.URL(), "SELECT n FROM kept"), "the first server must not have been harmed")
	pid := first.PID()
	require.NoError(t, first.Close())
	require.False(t, alive(pid))
	require.FileExists(t, filepath.Join(dir, "PG_VERSION"))

	second := openPrivate(t, Options{DataDir: dir})
	require.Equal(t, 42, query[int](t, second.URL(), "SELECT n FROM kept"))
}

func TestDataDirOfSomebodyElse(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	file := filepath.Join(dir, "precious")
	require.NoError(t, os.WriteFile(file, []byte("text"), 0o600))
	before, err := os.Stat(dir)
	require.NoError(t, err)
	_, err = Open(t.Context(), Options{Private: true, DataDir: dir})
	require.ErrorContains(t, err, "neither empty nor a cluster that BearMQ made")
	after, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, before.Sys().(*syscall.Stat_t).Uid, after.Sys().(*syscall.Stat_t).Uid)
	require.Equal(t, before.Mode(), after.Mode())
	require.FileExists(t, file)
}

func TestCrashAndStart(t *testing.T) {
	t.Parallel()
	s := openPrivate(t, Options{})
	url := s.URL()
	execute(t, url, "CREATE TABLE kept AS SELECT 42 AS n")
	idle, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	defer func() { _ = idle.Close(context.Background()) }()
	backend := int(query[int32](t, url, fmt.Sprintf("SELECT pid FROM pg_stat_activity WHERE pid = %d", idle.PgConn().PID())))

	require.True(t, alive(backend))
	for range 3 {
		pid := s.PID()
		require.True(t, alive(pid))
		require.NoError(t, s.Crash())
		require.False(t, alive(pid), "the postmaster survived")
		require.False(t, alive(backend), "a backend survived")
		require.Zero(t, s.PID())
		_, err := pgx.Connect(t.Context(), url)
		require.Error(t, err)
		require.NoError(t, s.Crash(), "crashing what is down already")

		require.NoError(t, s.Start(t.Context()))
		require.Equal(t, url, s.URL())
		require.Equal(t, 42, query[int](t, url, "SELECT n FROM kept"))
		require.Contains(t, s.LogTail(), "not properly shut down")
	}
	require.ErrorContains(t, s.Start(t.Context()), "runs already")
	require.NoError(t, s.Restart(t.Context()))
	require.NotContains(t, s.LogTail(), "not properly shut down")
	require.NoError(t, s.Stop())
	require.NoError(t, s.Stop(), "stopping what is down already")
	require.NoError(t, s.Start(t.Context()))
	require.Equal(t, 42, query[int](t, url, "SELECT n FROM kept"))
	require.NoError(t, s.Crash())
	dir := s.DataDir()
	require.NoError(t, s.Close(), "closing after a crash")
	require.NoDirExists(t, dir)
}

func TestTakenPort(t *testing.T) {
	t.Parallel()
	first := openPrivate(t, Options{})
	_, err := Open(t.Context(), Options{Private: true, Port: first.port, Settings: small})
	require.ErrorIs(t, err, errPortTaken)
	require.NotErrorIs(t, err, ErrNotPrivate)
	require.NoError(t, first.Restart(t.Context()))
}

func TestGivenServer(t *testing.T) {
	private := openPrivate(t, Options{})
	t.Setenv("DATABASE_URL", private.URL())
	for _, o := range []Options{{}, {URL: private.SocketURL()}} {
		s, err := Open(t.Context(), o)
		require.NoError(t, err)
		require.False(t, s.Private())
		if o.URL == "" {
			require.Equal(t, private.URL(), s.URL())
		} else {
			require.Equal(t, o.URL, s.URL())
		}
		require.ErrorIs(t, s.Crash(), ErrNotPrivate)
		require.ErrorIs(t, s.Start(t.Context()), ErrNotPrivate)
		require.ErrorIs(t, s.Stop(), ErrNotPrivate)
		require.ErrorIs(t, s.Restart(t.Context()), ErrNotPrivate)
		require.Zero(t, s.PID())
		require.Empty(t, s.LogTail())
		require.NoError(t, s.Close())
		require.Equal(t, 1, query[int](t, private.URL(), "SELECT 1"), "Close must leave it alone")
	}
	_, err := Open(t.Context(), Options{DataDir: t.TempDir()})
	require.ErrorContains(t, err, "unset one of them")
	_, err = Open(t.Context(), Options{URL: private.URL(), Private: true})
	require.ErrorContains(t, err, "exclude each other")
	own, err := Open(t.Context(), Options{Private: true, Settings: small})
	require.NoError(t, err)
	require.True(t, own.Private())
	require.NoError(t, own.Close())

	require.NoError(t, private.Stop())
	_, err = Open(t.Context(), Options{})
	require.ErrorContains(t, err, "the server of DATABASE_URL cannot be used")
}

// TestOwnerEnds ends the owner in each way that gives it no time to clean up.
func TestOwnerEnds(t *testing.T) {
	t.Parallel()
	for name, sig := range map[string]syscall.Signal{
		"SIGKILL": syscall.SIGKILL, "Ctrl-C": syscall.SIGINT, "SIGTERM": syscall.SIGTERM,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd, r := startHelper(t, os.Args[0], "-", nil)
			require.Equal(t, 1, query[int](t, r.URL, "SELECT 1"))
			// A session with a transaction under way must not hold up the stop.
			conn, err := pgx.Connect(t.Context(), r.URL)
			require.NoError(t, err)
			defer func() { _ = conn.Close(context.Background()) }()
			_, err = conn.Exec(t.Context(), "BEGIN; CREATE TABLE t (n int)")
			require.NoError(t, err)

			// The group is what a terminal's Ctrl-C reaches.
			require.NoError(t, syscall.Kill(-cmd.Process.Pid, sig))
			require.Error(t, cmd.Wait())
			requireGone(t, r.PID, r.Dir)
		})
	}
}

func TestOwnerEndsAndDataAreKept(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(tempDir(t), "data")
	cmd, r := startHelper(t, os.Args[0], dir, nil)
	execute(t, r.URL, "CREATE TABLE kept AS SELECT 42 AS n")
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	require.Eventually(t, func() bool { return !alive(r.PID) }, 20*time.Second, 20*time.Millisecond)
	s := openPrivate(t, Options{DataDir: dir})
	require.Equal(t, 42, query[int](t, s.URL(), "SELECT n FROM kept"))
}

// TestOwnerEndsDuringInitdb kills the owner before its server exists.
func TestOwnerEndsDuringInitdb(t *testing.T) {
	t.Parallel()
	tmp := tempDir(t)
	cmd := helperCommand(t, os.Args[0], "-", nil)
	cmd.Env = append(cmd.Env, "TMPDIR="+tmp)
	require.NoError(t, cmd.Start())
	inside := filepath.Join(tmp, "bearmq-pg-*", "PG_VERSION")
	require.Eventually(t, func() bool {
		found, err := filepath.Glob(inside)
		return err == nil && len(found) > 0
	}, 20*time.Second, time.Millisecond)
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	require.Eventually(t, func() bool {
		entries, err := os.ReadDir(tmp)
		return err == nil && len(entries) == 0
	}, 20*time.Second, 20*time.Millisecond)
}

// TestOrdinaryUser runs the other tests' heart as nobody, when this is root.
func TestOrdinaryUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		openPrivate(t, Options{})
		return
	}
	nobody := credentialOf(t, "nobody")
	binary := filepath.Join(tempDir(t), "pgserver.test") // go test's own directory is closed to others
	copyFile(t, os.Args[0], binary)
	cmd, r := startHelper(t, binary, "-", nobody)
	require.Equal(t, 1, query[int](t, r.URL, "SELECT 1"))
	require.Equal(t, nobody.Uid, ownerOf(t, r.Dir))
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	requireGone(t, r.PID, r.Dir)

	// Root opens the data of an ordinary user as this user, who can open them again.
	dir := filepath.Join(tempDir(t), "data")
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o777))
	cmd, r = startHelper(t, binary, dir, nobody)
	execute(t, r.URL, "CREATE TABLE kept AS SELECT 42 AS n")
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	require.Eventually(t, func() bool { return !alive(r.PID) }, 20*time.Second, 20*time.Millisecond)
	s := openPrivate(t, Options{DataDir: dir})
	require.Equal(t, 42, query[int](t, s.URL(), "SELECT n FROM kept"))
	require.NoError(t, s.Close())
	_, r = startHelper(t, binary, dir, nobody)
	require.Equal(t, 42, query[int](t, r.URL, "SELECT n FROM kept"))
}

func TestRoot(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("this is not root")
	}
	s := openPrivate(t, Options{})
	require.NotZero(t, ownerOf(t, s.DataDir()), "PostgreSQL refuses to run as root")

	closed := tempDir(t)
	require.NoError(t, os.Chmod(closed, 0o700))
	_, err := Open(t.Context(), Options{Private: true, DataDir: filepath.Join(closed, "data")})
	require.ErrorContains(t, err, "because of the rights of a directory above it")
}

func helperCommand(t *testing.T, binary, dir string, cred *syscall.Credential) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(binary)
	cmd.Env = append(os.Environ(), helperEnv+"="+dir)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: cred}
	cmd.Stderr = os.Stderr
	t.Cleanup(func() {
		if cmd.Process != nil && cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	return cmd
}

func startHelper(t *testing.T, binary, dir string, cred *syscall.Credential) (*exec.Cmd, report) {
	t.Helper()
	cmd := helperCommand(t, binary, dir, cred)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadBytes('\n')
	require.NoError(t, err, "the helper ended before it had a server")
	var r report
	require.NoError(t, json.Unmarshal(line, &r))
	return cmd, r
}

// tempDir is t.TempDir for other users too.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "bearmq-test-")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o777))
	t.Cleanup(func() { // the server of a killed helper may still be writing
		assert.Eventually(t, func() bool { return os.RemoveAll(dir) == nil }, 20*time.Second, 20*time.Millisecond)
	})
	return dir
}

func credentialOf(t *testing.T, name string) *syscall.Credential {
	t.Helper()
	u, err := user.Lookup(name)
	require.NoError(t, err)
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	require.NoError(t, err)
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	require.NoError(t, err)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

func ownerOf(t *testing.T, path string) uint32 {
	t.Helper()
	info, err := os.Stat(path)
	require.NoError(t, err)
	return info.Sys().(*syscall.Stat_t).Uid
}

// copyFile leaves the copying to another process: one that this process forks
// meanwhile would inherit the open file, and a file that is open for writing
// cannot be executed.
func copyFile(t *testing.T, from, to string) {
	t.Helper()
	out, err := exec.Command("cp", from, to).CombinedOutput()
	require.NoError(t, err, string(out))
	require.NoError(t, os.Chmod(to, 0o755))
}
