package bearmq

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq/internal/pgtest"
)

// What a caller gives is either refused with a FieldError, before any SQL, or is stored and read back as it was. These
// tests find out for anything, on a real PostgreSQL.

// A target enqueues in a transaction that is rolled back, on one connection.
type target struct {
	*Context
	conn *pgx.Conn
}

func newTarget(f *testing.F, opts Options) *target {
	f.Helper()
	opts.Schema = pgtest.Schema(f)
	mq, err := New(pgtest.DB(f), opts)
	require.NoError(f, err)
	require.NoError(f, mq.store.Migrate(f.Context()))
	conn, err := mq.store.Connect(f.Context())
	require.NoError(f, err)
	f.Cleanup(func() { _ = conn.Close(context.Background()) })
	return &target{mq, conn}
}

// A storedJob is what is stored of a job.
type storedJob struct {
	Name, Channel, Payload string
	Group                  *string
	Options                *string
	Wait                   *float64 // seconds until it is due
}

// put calls enqueue in a transaction and reads the job back. Where enqueue refuses, the transaction must be as it was.
func (g *target) put(t *testing.T, enqueue func(context.Context, Enqueuer) (JobID, error)) (storedJob, error) {
	t.Helper()
	ctx := t.Context()
	tx, err := g.conn.Begin(ctx)
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	id, refused := enqueue(ctx, g.In(tx))
	if refused != nil {
		var field *FieldError
		require.ErrorAs(t, refused, &field)
		require.NotEmpty(t, field.Reason)
		require.True(t, utf8.ValidString(refused.Error()))
	}
	rows, err := tx.Query(ctx, `SELECT s.name, s.channel, s.payload::text, s.group_key, j.options::text, extract(epoch FROM s.run_at - now())::float8
		FROM `+pgx.Identifier{g.opts.Schema}.Sanitize()+`.job_state s JOIN `+pgx.Identifier{g.opts.Schema}.Sanitize()+`.job j USING (id) WHERE id = $1`, id)
	require.NoError(t, err, "the transaction goes on")
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[storedJob])
	require.NoError(t, err)
	if refused != nil {
		require.Empty(t, found)
		return storedJob{}, refused
	}
	require.Len(t, found, 1)
	return found[0], nil
}

// nameFits, groupFits and textFits say what README and documentation promise, in other words than the code.
func nameFits(name string) bool {
	return len(name) >= 1 && len(name) <= 128 && utf8.ValidString(name) && strings.IndexFunc(name, unicode.IsControl) < 0
}

func groupFits(group string) bool { return len(group) <= 512 && textFits(group) }

func textFits(text string) bool { return utf8.ValidString(text) && !strings.Contains(text, "\x00") }

func FuzzEnqueueRaw(f *testing.F) {
	g := newTarget(f, Options{MaxPayload: 1 << 16})
	for _, seed := range []struct{ name, group, payload string }{
		{"mail", "", `{}`},
		{"söme näme", "g\n\t'\"\\", ` { "a" : [1, 2.0, -0, 1e400], "a": "\ud83d\ude00 <&>" } `},
		{"x\x00", "g", "1"},
		{"x", "g\x00", "1"},
		{"x", "\xff", "1"},
		{"x", strings.Repeat("g", 513), "1"},
		{strings.Repeat("n", 129), "", "1"},
		{"x", "", `"\u0000"`},
		{"x", "", `{"\ud800":1}`},
		{"x", "", "\xff"},
		{"x", "", "not JSON"},
		{"x", "", ""},
		{"\u0085", "", "1"},
		{"x", "", strings.Repeat("[", 1001) + strings.Repeat("]", 1001)},
	} {
		f.Add(seed.name, seed.group, []byte(seed.payload))
	}
	f.Fuzz(func(t *testing.T, name, group string, payload []byte) {
		got, err := g.put(t, func(ctx context.Context, to Enqueuer) (JobID, error) {
			return to.(*Into).EnqueueRaw(ctx, name, payload, InGroup(group))
		})
		if err != nil {
			require.False(t, nameFits(name) && groupFits(group) && json.Valid(payload) && utf8.Valid(payload) && len(payload) <= 1<<16 &&
				!strings.Contains(string(payload), `\u`) && strings.Count(string(payload), "[")+strings.Count(string(payload), "{") <= 1000, "%v", err)
			return
		}
		require.True(t, nameFits(name) && groupFits(group))
		require.Equal(t, name, got.Name)
		require.Equal(t, "default", got.Channel)
		require.Equal(t, string(payload), got.Payload)
		require.Equal(t, group, or(got.Group, ""))
	})
}

// An envelope is a payload of several kinds of text.
type envelope struct {
	Text  string
	Map   map[string]string
	Bytes []byte
	Raw   json.RawMessage `json:",omitempty"`
	Float float64
}

func FuzzEnqueuePayload(f *testing.F) {
	g := newTarget(f, Options{})
	d := Define(Spec[envelope]{Name: "fuzz", Group: func(e envelope) string { return e.Text }})
	f.Add("text", "key", []byte("bytes"), []byte(nil), 1.5)
	f.Add("\x00", "", []byte{0, 255}, []byte("[1 , 2]"), 0.0)
	f.Add("\xff", "", []byte{}, []byte(nil), 0.0)
	f.Add("", "\xed\xa0\x80", []byte{}, []byte(nil), 0.0)
	f.Add("\ufffd", "\u2028<&>", []byte{}, []byte(`"\ufffd"`), 0.0)
	f.Add("", "", []byte{}, []byte(`"\u0000"`), math.Inf(1))
	f.Fuzz(func(t *testing.T, text, key string, bytes, raw []byte, float float64) {
		in := envelope{Text: text, Map: map[string]string{key: text}, Bytes: bytes, Raw: raw, Float: float}
		got, err := g.put(t, func(ctx context.Context, to Enqueuer) (JobID, error) { return d.Enqueue(ctx, to, in) })
		if err != nil {
			require.False(t, groupFits(text) && textFits(key) && len(raw) == 0 && !math.IsNaN(float) && !math.IsInf(float, 0), "%v", err)
			return
		}
		require.True(t, groupFits(text) && textFits(key) && (len(raw) == 0 || json.Valid(raw)))
		out, err := decode[envelope]([]byte(got.Payload))
		require.NoError(t, err)
		require.Equal(t, in.Text, out.Text)
		require.Equal(t, in.Map, out.Map)
		require.True(t, slices.Equal(in.Bytes, out.Bytes))
		require.Equal(t, in.Float, out.Float)
		require.Equal(t, text, or(got.Group, ""))
	})
}

func FuzzChannel(f *testing.F) {
	g := newTarget(f, Options{})
	for _, seed := range []string{"default", "", "a b", "\x00", "\xff", "x\n", "ö'\"\\;--", strings.Repeat("c", 128), strings.Repeat("c", 129)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, channel string) {
		got, err := g.put(t, func(ctx context.Context, to Enqueuer) (JobID, error) {
			return numbers.Enqueue(ctx, to, 1, InChannel(channel))
		})
		require.Equal(t, nameFits(channel), err == nil, "%v", err)
		if err == nil {
			require.Equal(t, channel, got.Channel)
		}
	})
}

func FuzzEnqueueOptions(f *testing.F) {
	g := newTarget(f, Options{})
	f.Add(1, int64(0), int64(0), uint8(0), int64(0))
	f.Add(math.MaxInt16, int64(math.MaxInt64), int64(math.MinInt64), uint8(1), int64(1))
	f.Add(math.MaxInt, int64(maxDuration), int64(maxDuration), uint8(2), int64(maxDuration))
	f.Add(-1, int64(1), int64(-1), uint8(3), int64(-1))
	f.Add(2, int64(maxDuration)+1, int64(1), uint8(1), int64(math.MaxInt64))
	f.Fuzz(func(t *testing.T, attempts int, delay, timeout int64, kind uint8, wait int64) {
		backoff := []Backoff{{}, Constant(time.Duration(wait)), Exponential(), BackoffFunc(func(int) time.Duration { return time.Duration(wait) })}[kind%4]
		got, err := g.put(t, func(ctx context.Context, to Enqueuer) (JobID, error) {
			return numbers.Enqueue(ctx, to, 1, Attempts(attempts), Delay(time.Duration(delay)), WithTimeout(time.Duration(timeout)), WithBackoff(backoff))
		})
		within := func(n int64) bool { return n >= 0 && n <= int64(maxDuration) }
		fits := attempts >= 1 && attempts <= math.MaxInt16 && within(delay) && within(timeout) && kind%4 != 3 && (kind%4 != 1 || within(wait))
		require.Equal(t, fits, err == nil, "%v", err)
		if err != nil {
			return
		}
		read, err := decodeOptions([]byte(*got.Options))
		require.NoError(t, err)
		require.Equal(t, attempts, read.attempts)
		require.GreaterOrEqual(t, *read.timeout, time.Duration(timeout), "rounded up")
		require.Less(t, *read.timeout-time.Duration(timeout), time.Millisecond)
		if kind%4 != 2 {
			require.InDelta(t, backoff.Delay(1).Seconds(), read.backoff.Delay(1).Seconds(), 0.001)
		}
		if delay > 0 {
			require.InDelta(t, time.Duration(delay).Seconds(), *got.Wait, 30)
		} else {
			require.Nil(t, got.Wait)
		}
	})
}

func FuzzRunAt(f *testing.F) {
	g := newTarget(f, Options{})
	f.Add(int64(0), int64(0))
	f.Add(int64(-1), int64(0))
	f.Add(int64(253402300799), int64(999_999_999))
	f.Add(int64(253402300800), int64(0))
	f.Add(int64(math.MaxInt64), int64(math.MinInt64))
	f.Add(int64(1<<40), int64(1))
	f.Fuzz(func(t *testing.T, seconds, nanos int64) {
		at := time.Unix(seconds, nanos)
		before := time.Now()
		got, err := g.put(t, func(ctx context.Context, to Enqueuer) (JobID, error) { return numbers.Enqueue(ctx, to, 1, RunAt(at)) })
		year := at.UTC().Year()
		require.Equal(t, year >= 1970 && year <= 9999, err == nil, "%v: %v", at, err)
		if err == nil {
			require.InDelta(t, max(float64(at.Unix()-before.Unix()), 0), *got.Wait, 30)
		}
	})
}

// FuzzDecodeOptions reads what SQL producers may have written.
func FuzzDecodeOptions(f *testing.F) {
	for _, seed := range []string{
		``, `{}`, `null`, `{"attempts":3,"backoff":{"kind":"constant","ms":1000},"timeout_ms":5}`, `{"attempts":-1}`, `{"attempts":99999999}`,
		`{"timeout_ms":9223372036854775807}`, `{"timeout_ms":-9223372036854775808,"backoff":{"kind":"exponential"}}`,
		`{"backoff":{"kind":"constant","ms":9223372036854775807}}`, `{"backoff":{"kind":"func"}}`, `{"attempts":1e3}`, `[]`, `{"backoff":null}`,
	} {
		f.Add([]byte(seed), 1)
	}
	f.Fuzz(func(t *testing.T, text []byte, attempt int) {
		o, err := decodeOptions(text)
		if err != nil {
			require.Equal(t, overrides{}, o)
			return
		}
		require.True(t, o.attempts >= 0 && o.attempts <= maxAttempts)
		s := &settings{timeout: o.timeout, backoff: o.backoff}
		if o.attempts > 0 {
			s.attempts = &o.attempts
		}
		require.NoError(t, s.check(), "what is read fits")
		if o.backoff != nil {
			delay := o.backoff.Delay(attempt)
			require.True(t, delay >= 0 && delay <= maxDuration, "%v", delay)
		}
		again, err := s.encodeOverrides()
		require.NoError(t, err)
		same, err := decodeOptions(again)
		require.NoError(t, err)
		require.Equal(t, o, same)
	})
}

func FuzzBackoff(f *testing.F) {
	f.Add(int64(time.Second), 1)
	f.Add(int64(math.MaxInt64), math.MaxInt)
	f.Add(int64(math.MinInt64), math.MinInt)
	f.Add(int64(-1), 0)
	f.Fuzz(func(t *testing.T, wait int64, attempt int) {
		given := 0
		for _, b := range []Backoff{{}, Constant(time.Duration(wait)), Exponential(), BackoffFunc(func(attempt int) time.Duration {
			given = attempt
			return time.Duration(wait)
		}), BackoffFunc(func(int) time.Duration { panic("on purpose") }), BackoffFunc(nil)} {
			d := b.Delay(attempt)
			require.True(t, d >= 0 && d <= maxDuration, "%v", d)
		}
		require.Equal(t, max(attempt, 1), given)
		low := math.Exp(float64(min(max(attempt, 1), 10)))
		seconds := Exponential().Delay(attempt).Seconds()
		require.True(t, seconds >= low-1e-6 && seconds <= low*1.1+1e-6, "%v s", seconds)
		if d := time.Duration(wait); d >= 0 && d <= maxDuration {
			require.Equal(t, d, Constant(d).Delay(attempt))
		}
		ms := fromMilliseconds(wait)
		require.True(t, ms >= 0 && ms <= maxDuration)
		if wait >= 0 && wait <= int64(maxDuration) {
			up := fromMilliseconds(milliseconds(time.Duration(wait)))
			require.True(t, up >= time.Duration(wait) && up < time.Duration(wait)+time.Millisecond || up == maxDuration, "%v", up)
		}
	})
}

func FuzzEvery(f *testing.F) {
	f.Add(int64(time.Minute), int64(1_700_000_000), int64(0))
	f.Add(int64(1500*time.Millisecond), int64(-1), int64(999_999_999))
	f.Add(int64(366*24*time.Hour), int64(253402300799), int64(0))
	f.Add(int64(time.Second), int64(-62135596800), int64(0))
	f.Add(int64(0), int64(0), int64(0))
	f.Add(int64(math.MinInt64), int64(0), int64(0))
	f.Fuzz(func(t *testing.T, interval, seconds, nanos int64) {
		d := time.Duration(interval)
		s := Every(d)
		fits := d >= time.Second && d <= 366*24*time.Hour && d%time.Millisecond == 0
		require.Equal(t, fits, s.err == nil)
		after := time.Unix(seconds, nanos).UTC()
		if !fits || after.Year() < -4712 || after.Year() > 294276 { // PostgreSQL's years
			return
		}
		text, ok := strings.CutPrefix(s.String(), "every ")
		require.True(t, ok)
		read, err := time.ParseDuration(text)
		require.NoError(t, err)
		require.Equal(t, d, read, "the text, by which processes share slots, says what it is")

		next := s.next(after)
		require.True(t, next.After(after), "%v after %v", next, after)
		require.LessOrEqual(t, next.Sub(after), d)
		require.Zero(t, next.UnixMilli()%d.Milliseconds())
		require.Equal(t, next, s.next(next.Add(-1)), "the same slot for everybody who looks before it")
		require.Equal(t, next.Add(d), s.next(next), "and then the next one")
	})
}

// allowed are the words of a decodeError; the field is one of the type's.
var allowed = regexp.MustCompile(`^bearmq: the payload does not decode into bearmq\.letter(: (not JSON at byte \d+|(string|number|bool|array|object|null) for [][\w.*]+( in field "[A-Za-z.]+")?))?$`)

type letter struct {
	Name  string
	Count int
	Small int8
	Tags  []string
	Deep  struct{ On bool }
	Map   map[string]int
	At    time.Time
}

// FuzzDecodeError: errors end up in logs and in the database, payloads must not.
func FuzzDecodeError(f *testing.F) {
	for _, seed := range []string{
		`{"Name":1}`, `{"Count":"secret"}`, `{"Small":4711}`, `{"Tags":"secret"}`, `{"Deep":{"On":"secret"}}`, `{"Map":{"secret":"secret"}}`,
		`{"secret`, `"secret"`, `{"At":"secret"}`, `{"Count":1e99}`, `{"count":4711.5}`, `[]`, ``, `{"Map":{"secret":1e99}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		_, err := decode[letter](payload)
		if err == nil {
			return
		}
		require.Regexp(t, allowed, err.Error())
		require.Error(t, errors.Unwrap(err))
	})
}

func FuzzErrorText(f *testing.F) {
	g := newTarget(f, Options{})
	for _, seed := range []string{"", "it failed", "\x00", "\xff\xfe", "\\u0000", "\ud7ff\ue000", "a\x00b\xff\"\\", strings.Repeat("ü", maxErrorText)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		stored := errorText(errors.New(text))
		require.NotEmpty(t, stored)
		require.LessOrEqual(t, len(stored), maxErrorText)
		rest, err := json.Marshal([]map[string]string{{"error": stored}}) // as finish sends it
		require.NoError(t, err)
		var back string
		require.NoError(t, g.conn.QueryRow(t.Context(), "SELECT error FROM json_to_recordset($1) r(error text)", rest).Scan(&back))
		require.Equal(t, stored, back)
	})
}
