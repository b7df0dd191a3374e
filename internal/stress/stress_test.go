//go:build unix

package stress

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq"
	"github.com/bearmq/bearmq/internal/pgtest"
	"github.com/bearmq/bearmq/internal/proxy"
)

// TestStress is the attack at its full size. BEARMQ_STRESS_JOBS makes it
// longer or shorter, BEARMQ_STRESS_SEED repeats one.
func TestStress(t *testing.T) {
	t.Parallel()
	c := Full()
	if n := number(t, "BEARMQ_STRESS_JOBS"); n > 0 {
		c.Over, c.Jobs = c.Over*time.Duration(n)/time.Duration(c.Jobs), int(n)
	}
	survives(t, c)
}

// TestStressCrowded has few groups and many deaths: most jobs meet a fault.
func TestStressCrowded(t *testing.T) {
	t.Parallel()
	c := crowded()
	c.Jobs, c.Over, c.TTL, c.Quiet = 6000, 10*time.Second, time.Second, time.Minute
	c.Load.Task, c.Load.Snooze, c.Load.Complete = 100*time.Millisecond, 0.02, 0.1
	c.Faults = Faults{Kill: 600 * time.Millisecond, Stop: 3 * time.Second, Asleep: 0.2, Pause: 3 * time.Second, Terminate: 300 * time.Millisecond,
		Orchestrator: 3 * time.Second, CutReply: time.Second}
	survives(t, c)
}

func survives(t *testing.T, c Config) {
	t.Helper()
	c, _ = configured(t, c)
	found, summary, err := Run(t.Context(), c)
	require.NoError(t, err)
	t.Logf("%+v", summary)
	for _, v := range found {
		t.Error(v)
	}
	if t.Failed() {
		keep(t, c)
	}
}

// configured gives a run its place and its seed.
func configured(t *testing.T, c Config) (Config, *pgxpool.Pool) {
	t.Helper()
	c.Seed = uint64(number(t, "BEARMQ_STRESS_SEED"))
	if c.Seed == 0 {
		c.Seed = uint64(rand.Uint32())
	}
	t.Logf("seed %d", c.Seed)
	pool := pgtest.DB(t)
	c.URL, c.Schema, c.Dir = pgtest.URL(t), pgtest.Schema(t), t.TempDir()
	var err error
	c.Proxy, c.Via, err = proxy.For(c.URL)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Proxy.Close()) })
	mq, err := bearmq.New(pool, c.options())
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, mq.Migrate(ctx))
	return c, pool
}

func number(t *testing.T, variable string) int64 {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return 0
	}
	n, err := strconv.ParseInt(text, 10, 64)
	require.NoError(t, err, variable)
	return n
}

// keep leaves the history of a failed run, and says how to repeat it.
func keep(t *testing.T, c Config) {
	t.Helper()
	dir, err := os.MkdirTemp("", "bearmq-stress-")
	require.NoError(t, err)
	require.NoError(t, os.CopyFS(filepath.Join(dir, "history"), os.DirFS(c.Dir)))
	t.Logf("the history is in %s", dir)
	t.Log("to repeat it: " + fmt.Sprintf("BEARMQ_STRESS_SEED=%d BEARMQ_STRESS_JOBS=%d go test -count=1 -run '^%s$' -v ./internal/stress", c.Seed, c.Jobs, t.Name()))
}
