package bearmq_test

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq/internal/pgtest"
)

// TestREADMEProgram types the README's program into an empty module, as a new
// user would, and runs it.
func TestREADMEProgram(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	program := regexp.MustCompile("(?s)```go\n(package main.*?)```").FindSubmatch(readme)
	require.NotNil(t, program, "the README has no program")
	root, err := filepath.Abs(".")
	require.NoError(t, err)

	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "main.go"), program[1], 0o644))
	goSum, err := os.ReadFile("go.sum")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go.sum"), goSum, 0o644))
	run := func(args ...string) {
		cmd := exec.Command("go", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=mod")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "go %s:\n%s", strings.Join(args, " "), out)
	}
	run("mod", "init", "example.com/tryout")
	run("mod", "edit", "-require=github.com/bearmq/bearmq@v0.0.0", "-replace=github.com/bearmq/bearmq="+root)
	run("build", "-o", "tryout", ".")

	// The program uses the default schema, so it gets a database of its own.
	pool := pgtest.DB(t)
	database := pgtest.Schema(t)
	_, err = pool.Exec(t.Context(), "CREATE DATABASE "+database)
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := pool.Exec(context.Background(), "DROP DATABASE "+database+" WITH (FORCE)")
		require.NoError(t, err)
	})
	url := regexp.MustCompile(`/[^/?]*(\?|$)`).ReplaceAllString(pgtest.URL(t), "/"+database+"$1")

	cmd := exec.Command(filepath.Join(dir, "tryout"))
	cmd.Env = append(os.Environ(), "DATABASE_URL="+url)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	watchdog := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer watchdog.Stop()
	lines := bufio.NewScanner(out)
	require.True(t, lines.Scan(), "it printed nothing within a minute")
	require.Equal(t, "mail to ann@example.com", lines.Text())
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	require.NoError(t, cmd.Wait(), "Ctrl-C ends it without an error")
}
