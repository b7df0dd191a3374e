package bearmq

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq/internal/pgtest"
)

// An orchestrator names the session whose transaction has been open for too
// long, as often as it looks, and no other.
func TestALongTransactionIsNamed(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	events := listen(t, mq)
	o := launch(t, NewOrchestrator(mq, OrchestratorOptions{Name: "o", LongTransaction: 500 * time.Millisecond}))
	await[DaemonStarted](t, events, 1)
	config, err := pgx.ParseConfig(pgtest.URL(t))
	require.NoError(t, err)
	config.RuntimeParams["application_name"] = "long report"
	conn, err := pgx.ConnectConfig(t.Context(), config)
	require.NoError(t, err)
	tx, err := conn.Begin(t.Context())
	require.NoError(t, err)
	pid := conn.PgConn().PID()
	mine := func() (warned []DatabaseWarned) {
		for _, e := range seen[DatabaseWarned](events) {
			if e.Transaction != nil && e.Transaction.PID == int(pid) {
				warned = append(warned, e)
			}
		}
		return warned
	}
	until(t, "it warns again and again", func() bool { return len(mine()) > 1 })
	require.NoError(t, tx.Rollback(t.Context()))

	e := mine()[0]
	assert.Equal(t, "o", e.Worker)
	assert.Equal(t, "long report", e.Transaction.Application)
	assert.Equal(t, config.User, e.Transaction.User)
	assert.Equal(t, "idle in transaction", e.Transaction.State)
	assert.GreaterOrEqual(t, e.Transaction.Age, 500*time.Millisecond)
	assert.Contains(t, e.Problem, e.Transaction.String())
	assert.Contains(t, e.Health.Transactions, *e.Transaction)

	h, err := mq.Health(t.Context())
	require.NoError(t, err)
	for _, other := range h.Transactions {
		assert.NotEqual(t, int(pid), other.PID, "its transaction is over")
	}
	require.NoError(t, o.stop(t))
	require.NoError(t, conn.Close(t.Context()))
}

func TestTransactionsSayHowToEndThem(t *testing.T) {
	t.Parallel()
	for want, tx := range map[string]Transaction{
		`process 7 ("psql" of ann at 10.0.0.1, idle in transaction), in a transaction for 1m30s: SELECT pg_terminate_backend(7) ends it`: {
			PID: 7, Application: "psql", User: "ann", Host: "10.0.0.1", State: "idle in transaction", Age: 90 * time.Second},
		`the prepared transaction "a'b" of ann, open for 2s: ROLLBACK PREPARED 'a''b' ends it`: {
			Prepared: "a'b", User: "ann", State: "prepared", Age: 2 * time.Second},
	} {
		assert.Equal(t, want, tx.String())
	}
}
