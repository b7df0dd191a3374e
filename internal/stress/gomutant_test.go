//go:build unix

package stress

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq/internal/history"
)

// Mutants of the Go half of the engine: the children are built from sources of
// which one file reads otherwise. Nothing in the library knows of it.

// mutated builds the children's program with a file of the library in which a
// regular expression is replaced. It must match once.
func mutated(t *testing.T, file string, change swap) (binary string) {
	t.Helper()
	dir := t.TempDir()
	root, err := filepath.Abs(filepath.Join("..", ".."))
	require.NoError(t, err)
	file = filepath.Join(root, file)
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	old := regexp.MustCompile(change.old)
	require.Len(t, old.FindAll(text, -1), 1, "%s no longer reads %q", file, change.old)
	other := filepath.Join(dir, "mutant.go")
	require.NoError(t, os.WriteFile(other, old.ReplaceAllLiteral(text, []byte(change.new)), 0o600))
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {file: other}})
	require.NoError(t, err)
	list := filepath.Join(dir, "overlay.json")
	require.NoError(t, os.WriteFile(list, overlay, 0o600))
	binary = filepath.Join(dir, "mutant")
	build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-overlay", list, "-o", binary, "./internal/chaos")
	build.Dir = root
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return binary
}

// A worker that trusts its session for longer than the database does goes on
// with jobs that others may have.
func TestMutantSessionTrustedTooLong(t *testing.T) {
	t.Parallel()
	c := crowded()
	c.Binary = mutated(t, "session.go", swap{`return s\.ttl - min\(s\.ttl/10, 2\*time\.Second\)`, "return 100 * s.ttl"})
	// A process is cut off for twice the TTL at least: until its session is
	// declared dead, and for longer than its handlers have to notice. They take
	// longer still.
	c.Jobs, c.Producers, c.Workers, c.Over, c.TTL, c.Quiet = 60, 2, 2, 8*time.Second, 3*time.Second, time.Minute
	c.Load = Load{Channels: []string{"one"}, Groups: 10, Task: 3 * c.TTL, Even: true}
	c.Faults = Faults{BlackholeProcess: 500 * time.Millisecond}
	caught(t, c, []history.Class{history.Trust}, func(*testing.T, *pgxpool.Pool, Config) {})
}
