package bearmq

import (
	"context"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The guide's SQL runs as it is written.
func TestSQLGuide(t *testing.T) {
	t.Parallel()
	guide, err := os.ReadFile("docs/sql.md")
	require.NoError(t, err)
	mq := quiet(t, Options{})
	exec(t, mq, "CREATE TABLE bearmq.users (id bigint, email text, tenant text)")
	exec(t, mq, "CREATE TABLE bearmq.images (id bigint)")
	conn, err := mq.pool.Acquire(t.Context())
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "SELECT set_config('search_path', $1, false)", mq.opts.Schema)
	require.NoError(t, err)
	for _, block := range regexp.MustCompile("(?s)```sql\n(.*?)```").FindAllStringSubmatch(string(guide), -1) {
		_, err := conn.Conn().PgConn().Exec(t.Context(), inSchema(mq, block[1])).ReadAll()
		require.NoError(t, err, block[1])
	}
	conn.Conn().Close(t.Context())
	conn.Release()

	names := func() []string {
		return column[string](t, mq, "SELECT format('%s %s %s %s', name, count(*), max(priority), max(group_key)) FROM bearmq.job_state GROUP BY name ORDER BY 1")
	}
	require.Equal(t, []string{"reminder 1 0 ", "resize 1002 0 ", "send_email 2 0 customer 17"}, names())
	exec(t, mq, "INSERT INTO bearmq.users VALUES (1, 'a@b.c', 'acme')")
	exec(t, mq, "UPDATE bearmq.users SET email = email")
	exec(t, mq, "UPDATE bearmq.users SET email = 'd@e.f'")
	require.Equal(t, []string{"reminder 1 0 ", "resize 1002 0 ", "send_email 2 0 customer 17", "send_welcome 1 0 ", "verify_email 1 0 acme"}, names())
	require.Equal(t, []string{"images", "default", "mail"}, column[string](t, mq,
		"SELECT channel FROM bearmq.job_state WHERE name IN ('resize', 'send_welcome', 'verify_email') GROUP BY channel ORDER BY min(id)"))
	require.JSONEq(t, `{"id": 1, "email": "d@e.f", "tenant": "acme"}`,
		value[string](t, mq, "SELECT payload::text FROM bearmq.job_state WHERE name = 'verify_email' AND run_at > clock_timestamp()"))
}

// What SQL enqueues runs like any other job, with the definition's defaults.
func TestEnqueueFromSQL(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	events := listen(t, mq)
	var ran notebook[string]
	mail := Define(Spec[string]{Name: "mail", Channel: "mails", Priority: 7, Attempts: 2, Backoff: Constant(time.Millisecond)})
	handled(t, mq, mail, func(_ context.Context, j *Job[string]) error {
		ran.add(j.Payload + " " + j.Channel + " " + j.Group)
		if j.Payload == "fails" {
			return Permanent(assert.AnError)
		}
		return nil
	})
	require.NoError(t, mq.Deploy(t.Context()))
	tx, err := mq.pool.Begin(t.Context())
	require.NoError(t, err)
	for _, sql := range []string{
		`SELECT bearmq.enqueue('mail', '"a"')`,
		`SELECT bearmq.enqueue('mail', '"b"', channel := 'default', priority := 0, group_key := 'g')`,
		`SELECT bearmq.enqueue('mail', '"fails"', delay := '10 ms')`,
		`SELECT bearmq.enqueue_many('mail', ARRAY['"c"', '"d"']::json[], group_key := 'g')`,
		`SELECT bearmq.enqueue('mail', '"rolled back"')`,
	} {
		if strings.Contains(sql, "rolled") {
			sub, err := tx.Begin(t.Context())
			require.NoError(t, err)
			_, err = sub.Exec(t.Context(), inSchema(mq, sql))
			require.NoError(t, err)
			require.NoError(t, sub.Rollback(t.Context()))
			continue
		}
		_, err = tx.Exec(t.Context(), inSchema(mq, sql))
		require.NoError(t, err)
	}
	require.Empty(t, jobs(t, mq), "not committed")
	require.NoError(t, tx.Commit(t.Context()))
	require.Equal(t, []int{0, 7, 7, 7, 7}, column[int](t, mq, "SELECT priority::int FROM bearmq.job_state ORDER BY 1"))
	work(t, mq, WorkerOptions{})
	until(t, "all have run", func() bool { return len(ran.all()) == 5 })
	require.ElementsMatch(t, []string{"a mails ", "b default g", "fails mails ", "c mails g", "d mails g"}, ran.all())

	failed := await[JobExpired](t, events, 1)[0].JobID
	until(t, "it has failed", func() bool { return recordOf(t, mq, failed).State == StateFailed })
	require.Contains(t, []string{"scheduled", "retrying", "running", "failed"}, value[string](t, mq, "SELECT bearmq.retry($1)", failed))
	require.Equal(t, failed, await[JobExpired](t, events, 2)[1].JobID)
	until(t, "it has failed again", func() bool { return recordOf(t, mq, failed).State == StateFailed })
}

func TestHandsFromSQL(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	id := enqueued(t, mq, numbers, 1, Delay(time.Hour))
	require.Equal(t, "scheduled", value[string](t, mq, "SELECT bearmq.run_now($1)", id))
	require.Less(t, *recordOf(t, mq, id).Wait, 1.0)
	require.Equal(t, "cancelled", value[string](t, mq, "SELECT bearmq.cancel($1)", id))
	require.Equal(t, "cancelled", value[string](t, mq, "SELECT bearmq.run_now($1)", id), "no matter")
	require.Equal(t, "scheduled", value[string](t, mq, "SELECT bearmq.retry($1)", id))
	require.Equal(t, "scheduled", value[string](t, mq, "SELECT bearmq.retry($1)", id), "once")
	handled(t, mq, numbers, func(context.Context, *Job[int]) error { return nil })
	drain(t, mq, WorkerOptions{})
	require.Equal(t, record{State: StateCompleted, Attempt: 1, Finished: true}, recordOf(t, mq, id))
	require.Equal(t, "completed", value[string](t, mq, "SELECT bearmq.retry($1)", id), "not what is completed")
	for _, f := range []string{"cancel", "run_now", "retry"} {
		require.Nil(t, value[*string](t, mq, "SELECT bearmq."+f+"($1)", id+1000), f)
	}
}

// What the library refuses, SQL refuses too, and keeps nothing.
func TestSQLRefuses(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	long := strings.Repeat("x", 600)
	for sql, state := range map[string]string{
		`enqueue(NULL)`:                                          "22023",
		`enqueue('')`:                                            "22023",
		`enqueue(repeat('x', 129))`:                              "22023",
		`enqueue(E'a\nb')`:                                       "22023",
		`enqueue('x', NULL)`:                                     "22023",
		`enqueue('x', '"\u0000"')`:                               "22P05",
		`enqueue('x', '"\ud800"')`:                               "22P02",
		`enqueue('x', 'no json')`:                                "22P02",
		`enqueue('x', channel := '')`:                            "22023",
		`enqueue('x', channel := 'none')`:                        "42704",
		`enqueue('x', priority := 1)`:                            "42704",
		`make_channel('')`:                                       "22023",
		`make_channel(NULL)`:                                     "22023",
		`make_channel('x', 101)`:                                 "22023",
		`enqueue('x', channel := E'\t')`:                         "22023",
		`enqueue('x', group_key := '` + long + `')`:              "22023",
		`enqueue('x', attempts := 0)`:                            "22023",
		`enqueue('x', attempts := 32768)`:                        "22023",
		`enqueue('x', priority := 101)`:                          "22023",
		`enqueue('x', priority := -101)`:                         "22023",
		`enqueue('x', delay := '-1 s')`:                          "22023",
		`enqueue('x', delay := '11 years')`:                      "22023",
		`enqueue('x', run_at := now(), delay := '1 s')`:          "22023",
		`enqueue('x', run_at := 'infinity')`:                     "22023",
		`enqueue('x', run_at := '1969-12-31Z')`:                  "22023",
		`enqueue_many('x', ARRAY['1', NULL, '2']::json[])`:       "22023",
		`enqueue_many('x', ARRAY['1', '"\u0000"', '2']::json[])`: "22P05",
	} {
		_, err := mq.pool.Exec(t.Context(), inSchema(mq, "SELECT bearmq."+sql))
		var refused *pgconn.PgError
		require.ErrorAs(t, err, &refused, sql)
		assert.Equal(t, state, refused.Code, "%s: %v", sql, err)
	}
	exec(t, mq, "CREATE TABLE bearmq.t (id int)")
	for _, trigger := range []string{
		`AFTER INSERT ON bearmq.t FOR EACH STATEMENT EXECUTE FUNCTION bearmq.enqueue_row('x')`,
		`BEFORE INSERT ON bearmq.t FOR EACH ROW EXECUTE FUNCTION bearmq.enqueue_row('x')`,
		`AFTER INSERT ON bearmq.t FOR EACH ROW EXECUTE FUNCTION bearmq.enqueue_row()`,
		`AFTER INSERT ON bearmq.t FOR EACH ROW EXECUTE FUNCTION bearmq.enqueue_row('x', '{"chanel": "mail"}')`,
		`AFTER INSERT ON bearmq.t FOR EACH ROW EXECUTE FUNCTION bearmq.enqueue_row('x', '{"group_column": "tenat"}')`,
	} {
		exec(t, mq, "CREATE OR REPLACE TRIGGER t "+trigger)
		_, err := mq.pool.Exec(t.Context(), inSchema(mq, "INSERT INTO bearmq.t VALUES (1)"))
		require.ErrorContains(t, err, "bearmq: trigger t on t", trigger)
	}
	require.Empty(t, jobs(t, mq))
	require.Equal(t, 0, value[int](t, mq, "SELECT count(*) FROM bearmq.enqueue_many('x', '{}')"))
}
