//go:build fault && unix

package fault

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq"
	"github.com/bearmq/bearmq/internal/invariant"
	"github.com/bearmq/bearmq/internal/pgtest"
)

var inputRows = []row{
	{45, "a name that this process does not know", false, unknownName},
	{46, "large and deep payloads", false, largePayloads},
	{47, "text that PostgreSQL cannot store", false, badText},
	{48, "a huge group key", false, hugeGroup},
	{49, "names that are not identifiers", false, oddNames},
	{50, "numbers out of range", false, oddNumbers},
}

// unreachable is a Context whose database does not exist: what it refuses with
// another error than that, it has refused before any SQL.
func unreachable(t *testing.T, opts bearmq.Options) *bearmq.Context {
	t.Helper()
	config, err := pgxpool.ParseConfig("postgres://127.0.0.1:1/none?connect_timeout=1")
	require.NoError(t, err)
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	mq, err := bearmq.New(pool, opts)
	require.NoError(t, err)
	return mq
}

// refuses asserts that an enqueue is refused before any SQL, with an error that
// names the field.
func refuses(t *testing.T, field string, err error) *bearmq.FieldError {
	t.Helper()
	var refused *bearmq.FieldError
	require.ErrorAs(t, err, &refused)
	assert.Equal(t, field, refused.Field)
	assert.Less(t, len(err.Error()), 400, "the error quotes no payload")
	assert.True(t, utf8.ValidString(err.Error()))
	return refused
}

// Row 45. A job whose name a worker does not know is left to one that does: no
// attempt, no loss, at once, and the worker goes on.
func unknownName(t *testing.T) {
	s := begin(t)
	s.inside("orchestrator", orchestrator)
	other := bearmq.Define(bearmq.Spec[task]{Name: "other", Group: func(t task) string { return t.Group }})
	knows := func(def *bearmq.JobDefinition[task]) func(*role) {
		return func(r *role) {
			r.register = func(h *hands) error { return h.mq.Register(def.Handle(h.handle)) }
		}
	}
	s.inside("A", worker, knows(other))
	var jobs []int
	for i := range 20 {
		jobs = append(jobs, s.enqueue(task{Group: []string{"", "g"}[i%2]}))
	}
	s.within(patience, "A leaves them", func() bool {
		return value[int](s, `SELECT count(*) FROM bearmq.job_state WHERE state = 'parked'`) == 11 // ten, and the first of the group
	})
	assert.Len(s, s.find(told("WORKER_JOB_ORPHAN"), by("A")), 11)
	s.inside("B", worker, knows(work))
	at := time.Now()
	first := s.await(patience, "B has the first", is(started), of(jobs[0]), by("B"))
	last := s.await(patience, "B has the last", is(started), of(jobs[len(jobs)-1]), by("B"))
	later := s.await(patience, "B has one at once", is(started), of(s.enqueue(task{})))
	own, err := other.Enqueue(s.Context(), s.mq, s.fill(task{}))
	require.NoError(s, err)
	s.ack(own)
	s.await(patience, "A lives", is(started), by("A"))
	s.settled()
	s.unburnt()
	assert.Less(s, first.At.Sub(at), poll+time.Second)
	assert.Zero(s, value[int](s, `SELECT coalesce(sum(losses), 0) FROM bearmq.fault_given`))
	s.Logf("of 20 unknown jobs a worker that came ran the first after %s, the last after %s; a later one ran on %s", seconds(first.At.Sub(at)), seconds(last.At.Sub(at)), later.Process)
}

// Row 46. A payload of the limit is stored, one byte more is refused before any
// SQL; so are 100 MB and ten thousand levels. A notification carries no data.
func largePayloads(t *testing.T) {
	const limit = 64 << 10
	nowhere := unreachable(t, bearmq.Options{MaxPayload: limit})
	text := bearmq.Define(bearmq.Spec[string]{Name: "text"})
	raw := bearmq.Define(bearmq.Spec[json.RawMessage]{Name: "raw"})
	most := strings.Repeat("x", limit-2) // and two quotes
	for _, payload := range []string{most + "x", strings.Repeat("x", 100<<20)} {
		_, err := text.Enqueue(t.Context(), nowhere, payload)
		require.ErrorIs(t, err, bearmq.ErrPayloadTooLarge)
		refuses(t, "Payload", err)
	}
	_, err := nowhere.EnqueueRaw(t.Context(), "text", json.RawMessage(`"`+most+`x"`))
	require.ErrorIs(t, err, bearmq.ErrPayloadTooLarge)
	deep := json.RawMessage(strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000))
	_, err = raw.Enqueue(t.Context(), nowhere, deep)
	refuses(t, "Payload", err)
	_, err = nowhere.EnqueueRaw(t.Context(), "raw", deep)
	refuses(t, "Payload", err)

	s := begin(t)
	notes, err := pgx.Connect(s.Context(), s.url)
	require.NoError(s, err)
	defer func() { _ = notes.Close(context.Background()) }()
	got := make(chan int, 1)
	s.inside("worker", worker, orchestrator, func(r *role) {
		r.register = func(h *hands) error {
			return h.mq.Register(text.Handle(func(_ context.Context, job *bearmq.Job[string]) error {
				got <- len(job.Payload)
				return nil
			}))
		}
	})
	_, err = notes.Exec(s.Context(), "LISTEN "+pgx.Identifier{s.mqChannel()}.Sanitize())
	require.NoError(s, err)
	s.within(patience, "the worker sleeps", func() bool { return value[bool](s, `SELECT EXISTS (SELECT FROM bearmq.sleeper)`) })
	mq, err := bearmq.New(s.pool, bearmq.Options{Schema: s.schema, MaxPayload: limit})
	require.NoError(s, err)
	id, err := text.Enqueue(s.Context(), mq, most)
	require.NoError(s, err)
	s.ack(id)
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	note, err := notes.WaitForNotification(ctx)
	require.NoError(s, err)
	assert.Less(s, len(note.Payload), 64, "no data")
	assert.NotContains(s, note.Payload, "xx")
	select {
	case n := <-got:
		assert.Equal(s, limit-2, n)
	case <-ctx.Done():
		require.Fail(s, "the largest payload has not arrived")
	}
	s.settled()
}

// mqChannel is the channel of the notifications of the scenario's schema.
func (s *scenario) mqChannel() string {
	return value[string](s, `SELECT 'bearmq_' || left(md5($1), 16) || '_wake'`, s.schema)
}

// oddTexts cannot be stored in PostgreSQL, or only changed.
var oddTexts = map[string]string{"NUL": "a\x00b", "bad UTF-8": "a\xffb", "half a surrogate": "a\xed\xa0\x80b"}

// Row 47. What PostgreSQL cannot store is refused before any SQL, wherever it
// stands; in the text of an error or a panic it is made storable, so that the
// job's end can be written.
func badText(t *testing.T) {
	nowhere := unreachable(t, bearmq.Options{})
	plain := bearmq.Define(bearmq.Spec[string]{Name: "plain"})
	raw := func(payload string) error {
		_, err := nowhere.EnqueueRaw(t.Context(), "plain", json.RawMessage(payload))
		return err
	}
	for _, escape := range []string{`\u0000`, `\ud800`, `\udfff`, `\ud800\u0041`} {
		refuses(t, "Payload", raw(`{"k":"a`+escape+`b"}`))
		refuses(t, "Payload", raw(`{"a`+escape+`b":1}`))
	}
	refuses(t, "Payload", raw("\"a\xffb\""))
	for what, text := range oddTexts {
		_, err := plain.Enqueue(t.Context(), nowhere, text)
		refuses(t, "Payload", err)
		_, err = bearmq.Define(bearmq.Spec[string]{Name: text}).Enqueue(t.Context(), nowhere, "")
		refuses(t, "Name", err)
		_, err = plain.Enqueue(t.Context(), nowhere, "", bearmq.InGroup(text))
		refuses(t, "Group", err)
		_, err = plain.Enqueue(t.Context(), nowhere, "", bearmq.InChannel(text))
		refuses(t, "Channel", err)
		_ = what
	}

	s := begin(t)
	s.failing = true
	s.inside("worker", worker, orchestrator, func(r *role) {
		r.deed = func(_ context.Context, _ *hands, job *bearmq.Job[task]) error {
			text := oddTexts[strings.TrimSuffix(job.Payload.Do, ", panic")]
			if strings.HasSuffix(job.Payload.Do, ", panic") {
				panic(text)
			}
			return errors.New(text)
		}
	})
	for what := range oddTexts {
		s.enqueue(task{Do: what}, bearmq.Attempts(2))
		s.enqueue(task{Do: what + ", panic", Group: "g"})
	}
	s.settled()
	stored := column[string](s, `SELECT error FROM bearmq.outcome UNION ALL SELECT error FROM bearmq.attempt_error`)
	assert.Len(s, stored, 3*(1+2)+3*(1+1))
	for _, text := range stored {
		assert.Regexp(s, `a.*b`, text)
		assert.True(s, utf8.ValidString(text))
	}
}

// Row 48. A group key over the limit is refused with an error that names it; one
// of the limit works.
func hugeGroup(t *testing.T) {
	key := strings.ToLower(rand.Text())
	for len(key) < 10<<10 {
		key += strings.ToLower(rand.Text())
	}
	nowhere := unreachable(t, bearmq.Options{})
	for _, group := range []string{key, key[:513]} {
		_, err := work.Enqueue(t.Context(), nowhere, task{Group: group})
		refused := refuses(t, "Group", err)
		assert.Contains(t, refused.Reason, "at most 512 bytes")
		assert.NotContains(t, err.Error(), group[:20], "a group may be made from a payload")
		_, err = work.Enqueue(t.Context(), nowhere, task{}, bearmq.InGroup(group))
		refuses(t, "Group", err)
	}
	s := begin(t)
	s.inside("worker", worker, orchestrator)
	s.enqueue(task{Group: key[:512]})
	s.enqueue(task{Group: key[:512]})
	s.settled()
}

// Row 49. A name of a schema is quoted wherever it stands, or refused; names of
// definitions, channels and groups are values. Nothing is executed, and no two
// names become one.
func oddNames(t *testing.T) {
	suffix := strings.ToLower(rand.Text()[:8])
	long := strings.Repeat("s", 63-len(suffix)) + suffix
	quoted := []string{
		`a"b` + suffix, `x'; DROP TABLE fault_sentinel_` + suffix + `; --` + suffix, `%s%d` + suffix, "new\nline" + suffix, `$body$` + suffix, `🐻` + suffix, `A B` + suffix, long,
	}
	pool := pgtest.DB(t)
	_, err := pool.Exec(t.Context(), "CREATE TABLE public.fault_sentinel_"+suffix+" ()")
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := pool.Exec(context.Background(), "DROP TABLE public.fault_sentinel_"+suffix)
		assert.NoError(t, err, "nothing was executed")
	})
	for _, schema := range []string{long + "t", strings.Repeat("é", 32), "pg_" + suffix, "a\x00b", "a\xffb"} {
		_, err := bearmq.New(pool, bearmq.Options{Schema: schema})
		refuses(t, "Schema", err)
		_, err = bearmq.MigrationSQL(schema)
		refuses(t, "Schema", err)
	}
	for _, name := range []string{"new\nline", strings.Repeat("n", 129), ""} {
		_, err := bearmq.Define(bearmq.Spec[task]{Name: name}).Enqueue(t.Context(), unreachable(t, bearmq.Options{}), task{})
		refuses(t, "Name", err)
	}
	for i, schema := range quoted {
		t.Run(fmt.Sprint("schema ", string(rune('a'+i))), func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			mq, err := bearmq.New(pool, bearmq.Options{Schema: schema, SessionTTL: ttl, Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))})
			require.NoError(t, err)
			t.Cleanup(func() { // its own way to drop it, which must find all that Migrate has made
				assert.NoError(t, mq.DropSchema(context.Background()))
			})
			require.NoError(t, mq.Migrate(t.Context()))
			ran := map[string]int{}
			var jobs []bearmq.NewJob
			for _, name := range []string{`a"b`, `x'; DROP SCHEMA public CASCADE; --`, `%s`, `🐻`, `a\b`, strings.Repeat("n", 128), strings.Repeat("n", 127) + "m"} {
				def := bearmq.Define(bearmq.Spec[task]{Name: name, Channel: name, Group: func(task) string { return name }})
				require.NoError(t, mq.Register(def.Handle(func(_ context.Context, job *bearmq.Job[task]) error {
					if job.Name == name && job.Channel == name && job.Group == name {
						ran[name]++ // on one slot
					}
					return nil
				})))
				jobs = append(jobs, def.Job(task{}), def.Job(task{}, bearmq.Delay(time.Millisecond)))
				require.NoError(t, mq.Pause(t.Context(), name))
				require.NoError(t, mq.Resume(t.Context(), name))
			}
			_, err = mq.EnqueueBatch(t.Context(), jobs...)
			require.NoError(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			events := mq.Subscribe(1000)
			defer events.Close()
			over := make(chan error, 1)
			go func() {
				over <- bearmq.Run(ctx, bearmq.NewWorker(mq, bearmq.WorkerOptions{Concurrency: 1, PollInterval: poll}), bearmq.NewOrchestrator(mq, bearmq.OrchestratorOptions{}))
			}()
			deadline := time.After(patience)
			for done := 0; done < len(jobs); {
				select {
				case e := <-events.C:
					if e.Kind() == bearmq.KindJobSucceeded {
						done++
					}
				case <-deadline:
					require.Fail(t, "jobs do not run", "%d of %d: %v", done, len(jobs), log.String())
				}
			}
			cancel()
			require.NoError(t, <-over)
			assert.Len(t, ran, len(jobs)/2, "no two names became one")
			for name, n := range ran {
				assert.Equal(t, 2, n, name)
			}
			assert.Empty(t, log.String())
			assert.NoError(t, invariant.Check(t.Context(), pool, schema))
		})
	}
}

// Row 50. Numbers that nobody can mean are refused before any SQL; waits that a
// function makes are brought into range.
func oddNumbers(t *testing.T) {
	nowhere := unreachable(t, bearmq.Options{})
	enqueue := func(opts ...bearmq.EnqueueOption) error {
		_, err := work.Enqueue(t.Context(), nowhere, task{}, opts...)
		return err
	}
	for _, n := range []int{math.MaxInt32 + 1, math.MaxInt16 + 1, 0, -1, math.MinInt} {
		refuses(t, "Attempts", enqueue(bearmq.Attempts(n)))
	}
	for _, d := range []time.Duration{1e18, -1, math.MaxInt64, math.MinInt64} {
		refuses(t, "Delay", enqueue(bearmq.Delay(d)))
		refuses(t, "Timeout", enqueue(bearmq.WithTimeout(d)))
		refuses(t, "Backoff", enqueue(bearmq.WithBackoff(bearmq.Constant(d))))
	}
	for _, at := range []time.Time{{}, time.Unix(math.MaxInt64/2, 0), time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)} {
		refuses(t, "RunAt", enqueue(bearmq.RunAt(at)))
	}
	numbers := bearmq.Define(bearmq.Spec[float64]{Name: "numbers"})
	for _, f := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		_, err := numbers.Enqueue(t.Context(), nowhere, f)
		refuses(t, "Payload", err)
	}
	for _, d := range []time.Duration{math.MinInt64, -1, 0, time.Hour, 1e18, math.MaxInt64} {
		got := bearmq.BackoffFunc(func(int) time.Duration { return d }).Delay(1)
		assert.True(t, got >= 0 && got <= 10*365*24*time.Hour, "%v became %v", d, got)
	}
	for _, attempt := range []int{math.MinInt, 0, 1, 11, math.MaxInt} {
		got := bearmq.Exponential().Delay(attempt)
		assert.True(t, got > 0 && got < 8*time.Hour, "after attempt %d: %v", attempt, got)
	}

	// What a handler asks for is brought into range, and stored.
	s := begin(t)
	waits := map[string]error{
		"retry":  bearmq.RetryAfter(math.MaxInt64, errors.New("later")),
		"snooze": bearmq.Snooze(math.MaxInt64),
		"now":    bearmq.RetryAfter(math.MinInt64, errors.New("now")),
	}
	s.inside("worker", worker, orchestrator, func(r *role) {
		r.deed = func(_ context.Context, h *hands, job *bearmq.Job[task]) error {
			if h.first(job.ID, "late") {
				return waits[job.Payload.Do]
			}
			return nil
		}
	})
	var far []int
	for do := range waits {
		n := s.enqueue(task{Do: do}, bearmq.Attempts(math.MaxInt16))
		if do == "now" {
			s.within(patience, "it is completed", func() bool { return s.tally(n).State == "completed" })
			continue
		}
		s.within(patience, "it waits", func() bool {
			return value[bool](s, `SELECT EXISTS (SELECT FROM bearmq.ticket t JOIN bearmq.job j ON j.id = t.job_id
				WHERE (j.payload->>'N')::int = $1 AND t.state = 'd' AND t.run_at BETWEEN now() + interval '3640 days' AND now() + interval '3651 days')`, n)
		})
		far = append(far, n)
	}
	assert.Len(s, far, 2)
	s.exec(`UPDATE bearmq.ticket SET run_at = now()`) // time passes
	s.settled()
}
