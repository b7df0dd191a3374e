package bearmq

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// offline is a Context whose database does not exist: what reaches it fails
// with another error than the tests here look for.
func offline(t *testing.T, opts Options) *Context {
	t.Helper()
	config, err := pgxpool.ParseConfig("host=127.0.0.1 port=1 user=nobody dbname=none sslmode=disable")
	require.NoError(t, err)
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	mq, err := New(pool, opts)
	require.NoError(t, err)
	return mq
}

// enqueueing calls every way to enqueue a payload and gives their errors.
func enqueueing[T any](t *testing.T, mq *Context, d *JobDefinition[T], payload T, opts ...EnqueueOption) iter.Seq2[string, error] {
	ctx := t.Context()
	return func(yield func(string, error) bool) {
		_, err := d.Enqueue(ctx, mq, payload, opts...)
		if !yield("Enqueue", err) {
			return
		}
		_, err = d.Enqueue(ctx, mq.In(mq.pool), payload, opts...)
		if !yield("In", err) {
			return
		}
		_, err = d.EnqueueMany(ctx, mq, []T{payload}, opts...)
		if !yield("EnqueueMany", err) {
			return
		}
		_, err = d.EnqueueSeq(ctx, mq, slices.Values([]T{payload}), opts...)
		if !yield("EnqueueSeq", err) {
			return
		}
		_, err = mq.EnqueueBatch(ctx, d.Job(payload, opts...))
		yield("EnqueueBatch", err)
	}
}

// requireRefused wants a FieldError of the field that shows nothing of what
// is secret.
func requireRefused(t *testing.T, err error, field string) *FieldError {
	t.Helper()
	var refused *FieldError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, field, refused.Field, "%v", err)
	require.NotContains(t, err.Error(), "secret")
	require.NotContains(t, fmt.Sprintf("%v", refused.Value), "secret")
	require.True(t, utf8.ValidString(err.Error()))
	return refused
}

type list struct {
	Next *list
}

type panics struct{}

func (panics) MarshalJSON() ([]byte, error) { panic("secret") }

type fails struct{}

func (fails) MarshalJSON() ([]byte, error) { return nil, errors.New("secret") }

type badText struct{}

func (badText) MarshalText() ([]byte, error) { return []byte("secret\xff"), nil }

func TestPayloadRefused(t *testing.T) {
	t.Parallel()
	mq := offline(t, Options{MaxPayload: 100_000})
	anything := Define(Spec[any]{Name: "anything"})

	cycle := &list{}
	cycle.Next = cycle
	cyclicMap := map[string]any{}
	cyclicMap["secret"] = cyclicMap
	deep := &list{}
	for range maxJSONDepth {
		deep = &list{Next: deep}
	}

	for name, payload := range map[string]any{
		"NaN":                    math.NaN(),
		"infinity":               math.Inf(1),
		"minus infinity, nested": []any{"secret", map[string]float64{"secret": math.Inf(-1)}},
		"channel":                make(chan int),
		"function":               func() {},
		"function in a struct":   struct{ F func() }{func() {}},
		"complex number":         1i,
		"map with struct keys":   map[struct{ A int }]int{{1}: 1},
		"cyclic pointers":        cycle,
		"cyclic map":             cyclicMap,
		"too deep":               deep,
		"NUL":                    "secret\x00",
		"NUL in a key":           map[string]int{"secret\x00": 1},
		"invalid UTF-8":          "secret\xff",
		"half a character":       struct{ A []string }{[]string{"secret\xe2\x82"}},
		"invalid UTF-8 in a key": map[string]int{"secret\xff": 1},
		"surrogate as UTF-8":     "secret\xed\xa0\x80",
		"invalid UTF-8, quoted": struct {
			A string `json:",string"`
		}{"secret\xff"},
		"invalid UTF-8, embedded":  struct{ fmt.Stringer }{badString("secret\xff")},
		"invalid text":             badText{},
		"invalid text as key":      map[badText]int{{}: 1},
		"invalid UTF-8 beside raw": []any{json.RawMessage(`"\ufffd"`), "secret\xff"},
		"bad number":               json.Number("secret"),
		"raw: not JSON":            json.RawMessage(`{"secret":`),
		"raw: empty":               json.RawMessage(``),
		"raw: NUL":                 json.RawMessage(`"secret\u0000"`),
		"raw: NUL in a key":        json.RawMessage(`{"secret\u0000":1}`),
		"raw: NUL after backslash": json.RawMessage(`"secret\\\u0000"`),
		"raw: high surrogate":      json.RawMessage(`"secret\ud800"`),
		"raw: high surrogates":     json.RawMessage(`"secret\ud800\ud800"`),
		"raw: high and ASCII":      json.RawMessage(`"secret\uD83dx\uDE00"`),
		"raw: high and letter":     json.RawMessage(`"secret\ud83d\u0041"`),
		"raw: low surrogate":       json.RawMessage(`"secret\udc00"`),
		"raw: low, then high":      json.RawMessage(`"\ude00\ud83d secret"`),
		"raw: invalid UTF-8":       json.RawMessage("\"secret\xff\""),
		"raw: too deep":            json.RawMessage(strings.Repeat("[", maxJSONDepth+1) + strings.Repeat("]", maxJSONDepth+1)),
		"raw: objects too deep":    json.RawMessage(strings.Repeat(`{"a":`, maxJSONDepth+1) + "1" + strings.Repeat("}", maxJSONDepth+1)),
		"raw: far too deep":        json.RawMessage(strings.Repeat("[", 20_000)),
		"panics":                   panics{},
		"fails":                    fails{},
		"fails, nested":            []any{map[string]any{"a": fails{}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for how, err := range enqueueing(t, mq, anything, payload) {
				t.Log(how, err)
				requireRefused(t, err, "Payload")
				assert.NotErrorIs(t, err, ErrPayloadTooLarge)
			}
			if raw, ok := payload.(json.RawMessage); ok {
				_, err := mq.EnqueueRaw(t.Context(), "unknown", raw)
				requireRefused(t, err, "Payload")
			}
		})
	}
}

type badString string

func (s badString) String() string { return string(s) }

func TestPayloadTooLarge(t *testing.T) {
	t.Parallel()
	mq := offline(t, Options{MaxPayload: 20})
	text := Define(Spec[string]{Name: "text"})
	for how, err := range enqueueing(t, mq, text, strings.Repeat("x", 19)) { // and two quotes
		requireRefused(t, err, "Payload")
		assert.ErrorIs(t, err, ErrPayloadTooLarge, how)
	}
	_, err := mq.EnqueueRaw(t.Context(), "text", json.RawMessage(`"1234567890123456789"`))
	assert.ErrorIs(t, err, ErrPayloadTooLarge)
	for how, err := range enqueueing(t, mq, text, strings.Repeat("x", 18)) {
		requireUnreachable(t, err, how)
	}
}

// requireUnreachable wants the values to have passed, and only the database
// to be missing.
func requireUnreachable(t *testing.T, err error, what string) {
	t.Helper()
	var refused *FieldError
	require.Error(t, err, what)
	require.NotErrorAs(t, err, &refused, what)
}

func TestPayloadAccepted(t *testing.T) {
	t.Parallel()
	shared := &list{}
	for name, test := range map[string]struct {
		payload any
		json    string
	}{
		"nil":                      {nil, `null`},
		"None":                     {None{}, `{}`},
		"HTML is not escaped":      {"<a href='?a&b'>", `"<a href='?a&b'>"`},
		"U+FFFD":                   {"\uFFFD", "\"\uFFFD\""},
		"raw escape of U+FFFD":     {json.RawMessage(`"\ufffd"`), `"\ufffd"`},
		"text that looks like it":  {`\ufffd`, `"\\ufffd"`},
		"text that looks like NUL": {`\u0000`, `"\\u0000"`},
		"raw surrogate pair":       {json.RawMessage(`"\ud83d\ude00"`), `"\ud83d\ude00"`},
		"raw pair, upper case":     {json.RawMessage(`"\uD83D\uDE00x"`), `"\uD83D\uDE00x"`},
		"backslashes":              {json.RawMessage(`"\\\\ud800"`), `"\\\\ud800"`},
		"brackets in a string":     {strings.Repeat("[", maxJSONDepth+1), `"` + strings.Repeat("[", maxJSONDepth+1) + `"`},
		"as deep as allowed":       {json.RawMessage(strings.Repeat("[", maxJSONDepth) + strings.Repeat("]", maxJSONDepth)), strings.Repeat("[", maxJSONDepth) + strings.Repeat("]", maxJSONDepth)},
		"wide":                     {json.RawMessage("[" + strings.Repeat("[],", 2000) + "1]"), "[" + strings.Repeat("[],", 2000) + "1]"},
		"bytes":                    {[]byte{0xff, 0}, `"/wA="`},
		"bytes beside an escape":   {[]any{json.RawMessage(`"\ufffd"`), []byte{0xff}}, `["\ufffd","/w=="]`},
		"hidden beside an escape": {struct {
			R      json.RawMessage
			B      string `json:"-"`
			hidden string
		}{json.RawMessage(`"\ufffd"`), "\xff", "\xff"}, `{"R":"\ufffd"}`},
		"shared pointers": {[]*list{shared, shared}, `[{"Next":null},{"Next":null}]`},
		"nil text in map": {map[string]any{"\ufffd": (*badText)(nil), "r": json.RawMessage(`"\ufffd"`)}, "{\"r\":\"\\ufffd\",\"\ufffd\":null}"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text, err := encode("Payload", test.payload)
			require.NoError(t, err)
			assert.Equal(t, test.json, string(text))
			require.NoError(t, checkJSON("Payload", text))
		})
	}
}

// FuzzJSON compares the scanner with what decoding finds: JSON is refused
// exactly if a string of it holds NUL or half a surrogate pair.
func FuzzJSON(f *testing.F) {
	for _, seed := range []string{`"\u0000"`, `"\ud83d\ude00"`, `{"\ud800":[1]}`, `"\\u0000"`, `"\\\ud800\\"`, `[["\uD800\u0061"]]`, `"\ufffd"`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		err := checkJSON("Payload", text)
		if !utf8.Valid(text) || !json.Valid(text) {
			require.Error(t, err)
			return
		}
		if strings.Count(string(text), "[")+strings.Count(string(text), "{") > maxJSONDepth {
			return
		}
		// A U+FFFD that decodes out of text without one stands for half a pair.
		decoded := fmt.Sprint(decodedStrings(t, text))
		replaced := strings.Contains(decoded, "\uFFFD")
		if strings.ContainsRune(string(text), 0xFFFD) || strings.Contains(strings.ToLower(string(text)), `\ufffd`) {
			return
		}
		require.Equal(t, strings.ContainsRune(decoded, 0) || replaced, err != nil, "%s", text)
	})
}

// decodedStrings are all strings and keys of a JSON text, duplicates too.
func decodedStrings(t *testing.T, text []byte) (found []string) {
	decoder := json.NewDecoder(strings.NewReader(string(text)))
	decoder.UseNumber()
	for {
		token, err := decoder.Token()
		if err != nil {
			return found
		}
		if s, ok := token.(string); ok {
			found = append(found, s)
		}
	}
}

func TestOptionRefused(t *testing.T) {
	t.Parallel()
	mq := offline(t, Options{GroupUnlock: time.Hour})
	plain := Define(Spec[string]{Name: "plain"})
	long := strings.Repeat("secret", 100)
	for name, test := range map[string]struct {
		field string
		opts  []EnqueueOption
	}{
		"channel, empty":           {"Channel", []EnqueueOption{InChannel("")}},
		"channel, too long":        {"Channel", []EnqueueOption{InChannel(strings.Repeat("x", maxName+1))}},
		"channel, too many bytes":  {"Channel", []EnqueueOption{InChannel(strings.Repeat("ü", maxName/2) + "x")}},
		"channel, NUL":             {"Channel", []EnqueueOption{InChannel("a\x00b")}},
		"channel, newline":         {"Channel", []EnqueueOption{InChannel("a\nb")}},
		"channel, escape":          {"Channel", []EnqueueOption{InChannel("\x1b[31m")}},
		"channel, C1 control":      {"Channel", []EnqueueOption{InChannel("a\u0085")}},
		"channel, invalid UTF-8":   {"Channel", []EnqueueOption{InChannel("a\xff")}},
		"group, too long":          {"Group", []EnqueueOption{InGroup(long)}},
		"group, NUL":               {"Group", []EnqueueOption{InGroup("secret\x00")}},
		"group, invalid UTF-8":     {"Group", []EnqueueOption{InGroup("secret\xc3")}},
		"priority -101":            {"Priority", []EnqueueOption{Priority(-101)}},
		"priority 101":             {"Priority", []EnqueueOption{Priority(101)}},
		"attempts 0":               {"Attempts", []EnqueueOption{Attempts(0)}},
		"attempts -1":              {"Attempts", []EnqueueOption{Attempts(-1)}},
		"attempts 32768":           {"Attempts", []EnqueueOption{Attempts(maxAttempts + 1)}},
		"attempts 2^31":            {"Attempts", []EnqueueOption{Attempts(1 << 31)}},
		"delay -1 ns":              {"Delay", []EnqueueOption{Delay(-1)}},
		"delay of eleven years":    {"Delay", []EnqueueOption{Delay(11 * 365 * 24 * time.Hour)}},
		"delay 2^63-1 ns":          {"Delay", []EnqueueOption{Delay(math.MaxInt64)}},
		"run at zero":              {"RunAt", []EnqueueOption{RunAt(time.Time{})}},
		"run at 1969":              {"RunAt", []EnqueueOption{RunAt(time.Unix(-1, 0))}},
		"run at 10000":             {"RunAt", []EnqueueOption{RunAt(time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC))}},
		"run at 10^18 s":           {"RunAt", []EnqueueOption{RunAt(time.Unix(1e18, 0))}},
		"run at and delay":         {"RunAt", []EnqueueOption{RunAt(time.Now()), Delay(0)}},
		"delay and run at":         {"RunAt", []EnqueueOption{Delay(time.Second), RunAt(time.Now())}},
		"timeout -1 s":             {"Timeout", []EnqueueOption{WithTimeout(-time.Second)}},
		"timeout of eleven years":  {"Timeout", []EnqueueOption{WithTimeout(11 * 365 * 24 * time.Hour)}},
		"timeout beyond the group": {"Timeout", []EnqueueOption{WithTimeout(time.Hour + 1), InGroup("g")}},
		"backoff -1 s":             {"Backoff", []EnqueueOption{WithBackoff(Constant(-time.Second))}},
		"backoff of eleven years":  {"Backoff", []EnqueueOption{WithBackoff(Constant(11 * 365 * 24 * time.Hour))}},
		"backoff of a function":    {"Backoff", []EnqueueOption{WithBackoff(BackoffFunc(func(int) time.Duration { return 0 }))}},
		"nil option":               {"EnqueueOption", []EnqueueOption{Delay(0), nil}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for how, err := range enqueueing(t, mq, plain, "x", test.opts...) {
				t.Log(how, err)
				requireRefused(t, err, test.field)
				assert.Contains(t, err.Error(), `definition "plain"`)
			}
			_, err := mq.EnqueueRaw(t.Context(), "plain", json.RawMessage(`"x"`), test.opts...)
			requireRefused(t, err, test.field)
		})
	}
}

func TestOptionAccepted(t *testing.T) {
	t.Parallel()
	mq := offline(t, Options{GroupUnlock: time.Hour})
	plain := Define(Spec[string]{Name: "plain"})
	for name, opts := range map[string][]EnqueueOption{
		"none":            nil,
		"limits":          {InChannel(strings.Repeat("x", maxName)), InGroup(strings.Repeat("x", maxGroup)), Attempts(maxAttempts), Delay(maxDuration), Priority(maxPriority)},
		"least":           {Priority(-maxPriority), Attempts(1), Delay(0), WithTimeout(0), InGroup(""), WithBackoff(Backoff{})},
		"past":            {RunAt(time.Unix(0, 0))},
		"far":             {RunAt(time.Date(9999, 12, 31, 23, 0, 0, 0, time.UTC))},
		"group text":      {InGroup("new\nline, \t tab, \U0001F43B")},
		"hostile channel": {InChannel(`a"b'; DROP TABLE job; -- %s`)},
		"long, ungrouped": {WithTimeout(2 * time.Hour)},
		"as the unlock":   {WithTimeout(time.Hour), InGroup("g")},
		"exponential":     {WithBackoff(Exponential())},
	} {
		for how, err := range enqueueing(t, mq, plain, "x", opts...) {
			requireUnreachable(t, err, name+" "+how)
		}
	}
}

func TestEnqueuerRefused(t *testing.T) {
	t.Parallel()
	mq := offline(t, Options{})
	plain := Define(Spec[string]{Name: "plain"})
	for _, to := range []Enqueuer{nil, (*Context)(nil), (*Into)(nil), &Into{}} {
		_, err := plain.Enqueue(t.Context(), to, "x")
		requireRefused(t, err, "Enqueuer")
	}
	_, err := plain.Enqueue(t.Context(), mq.In(nil), "x")
	requireRefused(t, err, "In")
	_, err = mq.In(nil).EnqueueRaw(t.Context(), "plain", json.RawMessage(`"x"`))
	requireRefused(t, err, "In")
	_, err = (&Into{}).EnqueueRaw(t.Context(), "plain", json.RawMessage(`"x"`))
	requireRefused(t, err, "Enqueuer")
	_, err = mq.EnqueueBatch(t.Context(), NewJob{})
	requireRefused(t, err, "NewJob")
	_, err = plain.EnqueueSeq(t.Context(), mq, nil)
	requireRefused(t, err, "payloads")
}

func TestEnqueueNothing(t *testing.T) {
	t.Parallel()
	mq := offline(t, Options{})
	plain := Define(Spec[string]{Name: "plain"})
	ids, err := plain.EnqueueMany(t.Context(), mq, nil)
	require.NoError(t, err)
	assert.Empty(t, ids)
	ids, err = mq.EnqueueBatch(t.Context())
	require.NoError(t, err)
	assert.Empty(t, ids)
	n, err := plain.EnqueueSeq(t.Context(), mq, slices.Values([]string{}))
	require.NoError(t, err)
	assert.Zero(t, n)
}

func TestRefusedInABatch(t *testing.T) {
	t.Parallel()
	mq := offline(t, Options{})
	number := Define(Spec[float64]{Name: "number"})
	_, err := number.EnqueueMany(t.Context(), mq, []float64{1, 2, math.NaN()})
	requireRefused(t, err, "Payload")
	assert.ErrorContains(t, err, `bearmq: job 3 of 3, definition "number": Payload must`)
	_, err = number.EnqueueSeq(t.Context(), mq, slices.Values([]float64{1, math.NaN(), 3}))
	assert.ErrorContains(t, err, "job 2,")
	_, err = mq.EnqueueBatch(t.Context(), number.Job(1), number.Job(2, Attempts(0)))
	requireRefused(t, err, "Attempts")
	assert.ErrorContains(t, err, "job 2 of 2")
}

func TestGroupFunctionPanics(t *testing.T) {
	t.Parallel()
	mq := offline(t, Options{})
	d := Define(Spec[string]{Name: "moody", Group: func(text string) string {
		if text == "bad" {
			panic("secret")
		}
		return text
	}})
	for _, err := range enqueueing(t, mq, d, "bad") {
		requireRefused(t, err, "Group")
		assert.ErrorContains(t, err, `"moody"`)
		var cause *PanicError
		require.ErrorAs(t, err, &cause)
		assert.Equal(t, "secret", cause.Value)
		assert.Contains(t, string(cause.Stack), "TestGroupFunctionPanics")
	}
	for how, err := range enqueueing(t, mq, d, "bad", InGroup("x")) {
		requireUnreachable(t, err, how)
	}
	for _, err := range enqueueing(t, mq, d, strings.Repeat("secret", 100)) {
		requireRefused(t, err, "Group")
	}
	for _, err := range enqueueing(t, mq, d, "\xffsecret", InGroup("x")) {
		requireRefused(t, err, "Payload")
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	pool := offline(t, Options{}).pool
	second := time.Second
	for _, test := range []struct {
		field string
		opts  Options
	}{
		{"Retention", Options{Retention: -second}},
		{"Retention", Options{Retention: 11 * 365 * 24 * time.Hour}},
		{"Retention", Options{Retention: NoGroupUnlock}},
		{"RetentionFailed", Options{RetentionFailed: -second}},
		{"RetentionFailed", Options{RetentionFailed: NoGroupUnlock}},
		{"GroupUnlock", Options{GroupUnlock: -second}},
		{"GroupUnlock", Options{GroupUnlock: second - 1}},
		{"GroupUnlock", Options{GroupUnlock: NoRetention}},
		{"SessionTTL", Options{SessionTTL: second - 1}},
		{"SessionTTL", Options{SessionTTL: time.Hour + 1}},
		{"SessionTTL", Options{SessionTTL: NoRetention}},
		{"MaxPayload", Options{MaxPayload: -1}},
		{"MaxPayload", Options{MaxPayload: 1 << 30}},
		{"MaxLosses", Options{MaxLosses: -1}},
		{"MaxLosses", Options{MaxLosses: 1 << 20}},
		{"Middleware", Options{Middleware: []Middleware{nil}}},
		{"Schema", Options{Schema: strings.Repeat("x", 64)}},
	} {
		_, err := New(pool, test.opts)
		t.Log(err)
		requireRefused(t, err, test.field)
	}
	_, err := New(nil, Options{})
	requireRefused(t, err, "pool")
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	mq := offline(t, Options{})
	assert.Equal(t, "bearmq", mq.opts.Schema)
	assert.Equal(t, 24*time.Hour, mq.opts.Retention)
	assert.Equal(t, 24*time.Hour, mq.opts.RetentionFailed)
	assert.Equal(t, 3*time.Hour, mq.opts.GroupUnlock)
	assert.Equal(t, 30*time.Second, mq.opts.SessionTTL)
	assert.Equal(t, 1<<20, mq.opts.MaxPayload)
	assert.Equal(t, 3, mq.opts.MaxLosses)
	assert.NotNil(t, mq.log)

	mq = offline(t, Options{Retention: NoRetention, GroupUnlock: NoGroupUnlock, SessionTTL: time.Second})
	assert.Equal(t, NoRetention, mq.opts.RetentionFailed)
	assert.NotEqual(t, NoRetention, NoGroupUnlock)

	def := Define(Spec[None]{Name: "x"}).def
	assert.Equal(t, "default", def.channel)
	assert.Equal(t, 1, def.attempts)
	assert.Equal(t, 5*time.Minute, def.backoff.Delay(1))
	assert.Zero(t, def.timeout)
	assert.Zero(t, def.delay)
	assert.Equal(t, Release, def.groupOrder)
}

func TestSanitize(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		text  string
		limit int
		want  string
	}{
		{"", 10, ""},
		{"plain", 5, "plain"},
		{"a\x00b", 10, "ab"},
		{"a\xff\xfeb", 10, "a\uFFFDb"},
		{"\xed\xa0\x80", 10, "\uFFFD"},
		{strings.Repeat("x", 30), 20, "xxxxxx… (30 bytes)"},
		{strings.Repeat("ü", 15), 20, "üüü… (30 bytes)"},
		{strings.Repeat("\xff.", 10), 20, "\uFFFD.… (20 bytes)"},
		{strings.Repeat("x", 30), 3, "…"},
		{strings.Repeat("x", 30), 0, ""},
	} {
		got := sanitize(test.text, test.limit)
		assert.Equal(t, test.want, got)
	}
}

func FuzzSanitize(f *testing.F) {
	f.Add("a\x00\xff€", 5)
	f.Add(strings.Repeat("\xffa", 100), 50)
	f.Fuzz(func(t *testing.T, text string, limit int) {
		limit &= 0xffff
		got := sanitize(text, limit)
		require.LessOrEqual(t, len(got), limit)
		require.True(t, utf8.ValidString(got))
		require.NotContains(t, got, "\x00")
		if len(text) <= limit && utf8.ValidString(text) && !strings.Contains(text, "\x00") {
			require.Equal(t, text, got)
		}
	})
}
