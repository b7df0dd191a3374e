//go:build drivers

package drivers

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq"
	"github.com/bearmq/bearmq/internal/pgserver"
	"github.com/bearmq/bearmq/internal/pgtest"
)

type payload struct {
	Order int `json:"order"`
}

func TestDrivers(t *testing.T) {
	t.Parallel()
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	for name, program := range map[string]func() *exec.Cmd{
		"Node": func() *exec.Cmd {
			// Node looks for packages from where a program is.
			copied := filepath.Join(root, ".cache", "node", "shop.mjs")
			text, err := os.ReadFile("testdata/shop.mjs")
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(copied, text, 0o644))
			return exec.Command("node", copied)
		},
		"Python": func() *exec.Cmd { return exec.Command("/usr/bin/python3", "testdata/shop.py") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := pgtest.Start(t, pgserver.Options{})
			pool, err := pgxpool.New(t.Context(), server.URL())
			require.NoError(t, err)
			t.Cleanup(pool.Close)
			mq, err := bearmq.New(pool, bearmq.Options{})
			require.NoError(t, err)
			require.NoError(t, mq.Migrate(t.Context()))
			_, err = pool.Exec(t.Context(), "CREATE TABLE orders (id bigint)")
			require.NoError(t, err)

			var mu sync.Mutex
			var shipped []int
			ship := bearmq.Define(bearmq.Spec[payload]{Name: "ship", Channel: "goods"})
			require.NoError(t, mq.Register(ship.Handle(func(_ context.Context, job *bearmq.Job[payload]) error {
				mu.Lock()
				defer mu.Unlock()
				shipped = append(shipped, job.Payload.Order)
				return nil
			})))
			require.NoError(t, mq.Deploy(t.Context()))

			cmd := program()
			cmd.Env = append(os.Environ(), environment(t, server.URL())...)
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			require.NoError(t, cmd.Run(), stderr.String())
			var said struct {
				Shipped   []bearmq.JobID
				Cancelled bearmq.JobID
				State     bearmq.State
			}
			require.NoError(t, json.Unmarshal(stdout.Bytes(), &said), stdout.String())
			require.Equal(t, bearmq.StateCancelled, said.State)

			ctx, stop := context.WithTimeout(t.Context(), time.Minute)
			defer stop()
			require.NoError(t, bearmq.NewWorker(mq, bearmq.WorkerOptions{}).Drain(ctx))
			slices.Sort(shipped)
			require.Equal(t, []int{17, 19, 20}, shipped)
			require.Len(t, said.Shipped, 3)
			for _, id := range said.Shipped {
				require.NoError(t, mq.Await(ctx, id))
			}
			var failed *bearmq.JobFailedError
			require.ErrorAs(t, mq.Await(ctx, said.Cancelled), &failed)
			require.Equal(t, bearmq.StateCancelled, failed.State)
			var orders []int
			require.NoError(t, pool.QueryRow(ctx, "SELECT array_agg(id) FROM orders").Scan(&orders))
			require.Equal(t, []int{17}, orders)
		})
	}
}

// environment tells libpq, and what imitates it, how to connect.
func environment(t *testing.T, url string) []string {
	t.Helper()
	c, err := pgx.ParseConfig(url)
	require.NoError(t, err)
	return []string{"PGHOST=" + c.Host, "PGPORT=" + strconv.Itoa(int(c.Port)), "PGUSER=" + c.User, "PGPASSWORD=" + c.Password, "PGDATABASE=" + c.Database}
}
