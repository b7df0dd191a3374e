package bench

import (
	"bytes"
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq/internal/pgserver"
	"github.com/bearmq/bearmq/internal/pgtest"
)

// breakFinish rewrites the engine's finish where pattern matches.
func breakFinish(pattern, by string) func(context.Context, *pgxpool.Pool) error {
	return func(ctx context.Context, pool *pgxpool.Pool) error {
		var def string
		if err := pool.QueryRow(ctx, "SELECT pg_get_functiondef('bearmq.finish_v1'::regproc)").Scan(&def); err != nil {
			return err
		}
		broken := regexp.MustCompile(pattern).ReplaceAllString(def, by)
		if broken == def {
			return fmt.Errorf("finish_v1 has nothing like %s", pattern)
		}
		_, err := pool.Exec(ctx, broken)
		return err
	}
}

// Its outcomes leave out one job in 10,000.
var losesOne = breakFinish(`(FROM unnest\(p_done, p_done_lease[^)]*\) u\([^)]*\));`, `$1 WHERE u.id % 10000 <> 77;`)

// It does not wait for the disk.
var notDurable = breakFinish(`(PERFORM \S*guard_v1\(false\);)`, `$1 PERFORM set_config('synchronous_commit', 'off', true);`)

// broken runs the bench on a broken engine and returns what it says.
func broken(t *testing.T, spoil func(context.Context, *pgxpool.Pool) error, args string) string {
	t.Helper()
	var out, said bytes.Buffer
	o, err := parse(strings.Fields(args), &said)
	require.NoError(t, err)
	if o.database == "" {
		o.settings = small
	}
	o.spoil = spoil
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	require.Equal(t, 1, run(ctx, o, &out, &said), "%s", &said)
	require.Empty(t, out.String(), "figures of a broken engine are not printed")
	return said.String()
}

func TestCheckFailsOnAFinishThatLosesOneJobInTenThousand(t *testing.T) {
	t.Parallel()
	said := broken(t, losesOne, "drain --jobs 20000 --rounds 1")
	require.Contains(t, said, "2 of 20,000 jobs are missing")
	require.Contains(t, said, "are durably finished")
}

func TestCheckFailsOnAFinishThatLosesJobsOfAStream(t *testing.T) {
	t.Parallel()
	said := broken(t, losesOne, "stream --rate 0 --jobs 10000 --retention 1h --rounds 1")
	require.Contains(t, said, "1 of 10,000 jobs are missing")
}

func TestCheckFailsOnAFinishThatIsNotDurable(t *testing.T) {
	t.Parallel()
	said := broken(t, notDurable, "drain --jobs 2000 --rounds 1")
	require.Regexp(t, `[\d,]+ of [\d,]+ jobs are missing: the engine had said that they are durably finished`, said)
}

func TestCheckFailsOnAFinishThatIsNotDurableOnSomebodysServer(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgserver.Options{Settings: small})
	said := broken(t, notDurable, "drain --jobs 2000 --rounds 1 --database "+server.URL())
	require.Contains(t, said, "bytes of the WAL were not on disk")
}

func TestCheckFailsOnAnEnqueueThatIsNotDurable(t *testing.T) {
	t.Parallel()
	said := broken(t, func(ctx context.Context, pool *pgxpool.Pool) error {
		var name string
		if err := pool.QueryRow(ctx, "SELECT current_database()").Scan(&name); err != nil {
			return err
		}
		if _, err := pool.Exec(ctx, "ALTER DATABASE "+name+" SET synchronous_commit = off"); err != nil {
			return err
		}
		pool.Reset()
		return nil
	}, "enqueue --jobs 500 --connections 2 --rounds 1")
	require.Contains(t, said, "jobs are missing: the engine had said that they are durably enqueued")
}

func TestLedgerNamesWhatIsMissingAndWhatRanTwice(t *testing.T) {
	t.Parallel()
	full := func() ledger {
		l := newLedger(100)
		for i := range 100 {
			l.add(i)
		}
		return l
	}
	l := full()
	require.NoError(t, l.once("have run"))

	l.add(42)
	require.ErrorContains(t, l.once("have run"), "1 of 100 jobs have run more than once")

	l = newLedger(100)
	for i := range 100 {
		if i != 17 && i != 80 {
			l.add(i)
		}
	}
	require.ErrorContains(t, l.once("have run"), "2 of 100 jobs are missing")
	require.ErrorContains(t, l.once("have run"), "number 17")

	one, two := newLedger(100), newLedger(100)
	for i := range 100 {
		if i < 51 {
			one.add(i)
		}
		if i >= 50 {
			two.add(i)
		}
	}
	one.merge(two)
	require.ErrorContains(t, one.once("have run"), "1 of 100 jobs have run more than once", "in two processes")

	l = full()
	l.add(100)
	require.ErrorContains(t, l.once("have run"), "nobody enqueued")
}
