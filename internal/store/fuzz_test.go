package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq/internal/pgtest"
)

// schemas are names that a schema may have or may not.
var schemas = []string{
	"", "bearmq", "public", "Schema", `a"b`, `a""b`, `"`, `x'; DROP TABLE canary; --`, `x"; DROP TABLE canary; --`, "%s", "%d %%", "a\nb", "a\r\n; DROP TABLE canary;",
	"$body$", "$do$", "$migration$", "$body1$", "$$", "$", "a$body$ $do$ $do1$", "--", "/*", "*/", `\`, `E'\''`, "bearmq.", "'bearmq.", "ü", "\u2028", "🐻",
	"pg_x", "PG_x", " ", "a\x00b", "\xff", strings.Repeat("n", 63), strings.Repeat("n", 64), strings.Repeat("ü", 32), strings.Repeat(`"`, 63), strings.Repeat(`'`, 63),
}

func schemaFits(name string) bool {
	return name != "" && len(name) <= 63 && utf8.ValidString(name) && !strings.Contains(name, "\x00") && !strings.HasPrefix(name, "pg_")
}

// FuzzSchemaTexts compares each statement, and the migrations, with what they are for an ordinary schema, part by part as
// PostgreSQL reads them: nothing but a name may differ.
func FuzzSchemaTexts(f *testing.F) {
	for _, s := range schemas {
		f.Add(s)
	}
	plain, err := New(nil, "bearmq")
	require.NoError(f, err)
	script, err := MigrationSQL("bearmq")
	require.NoError(f, err)
	want := parts(f, script)
	f.Fuzz(func(t *testing.T, schema string) {
		s, err := New(nil, schema)
		script, err2 := MigrationSQL(schema)
		require.Equal(t, schemaFits(schema), err == nil, "%v", err)
		require.Equal(t, err, err2)
		if err != nil {
			require.True(t, utf8.ValidString(err.Error()))
			return
		}
		require.Equal(t, of(schema, want), parts(t, script))
		for name, text := range s.sql {
			require.Equal(t, of(schema, parts(t, plain.sql[name])), parts(t, text), name)
		}
		require.LessOrEqual(t, len(s.WakeChannel()), 63)
		require.Equal(t, schema == "bearmq", s.WakeChannel() == plain.WakeChannel(), "a channel of its own")
	})
}

// That test would see names and literals that are not quoted.
func TestPartsSeesWhatIsNotQuoted(t *testing.T) {
	t.Parallel()
	script, err := MigrationSQL("bearmq")
	require.NoError(t, err)
	for naive, schema := range map[string]string{`"bearmq"`: `x" CASCADE; SET ROLE "y`, `'bearmq'`: `x' || current_user || 'y`} {
		text := strings.ReplaceAll(script, naive, naive[:1]+schema+naive[:1])
		require.NotEqual(t, of(schema, parts(t, script)), parts(t, text))
	}
}

// parts reads a script as PostgreSQL does: quoted names, literals, texts between dollars, which are scripts again, and the
// rest, without comments.
func parts(t testing.TB, script string) (list []string) {
	for i := 0; i < len(script); {
		rest := script[i:]
		end := -1
		switch c := rest[0]; {
		case strings.HasPrefix(rest, "--"):
			if end = strings.IndexAny(rest, "\r\n"); end < 0 {
				end = len(rest)
			}
		case strings.HasPrefix(rest, "/*"):
			require.Fail(t, "a comment of a kind that is not used", "%.80q", rest)
		case c == '"' || c == '\'':
			end = quoted(rest, c)
			require.Positive(t, end, "a quote that does not end: %.80q", rest)
			list = append(list, string(c)+strings.ReplaceAll(rest[1:end-1], string([]byte{c, c}), string(c)))
		case c == '$' && dollar(rest) > 0:
			tag := rest[:dollar(rest)]
			body := rest[len(tag):]
			n := strings.Index(body, tag)
			require.GreaterOrEqual(t, n, 0, "a text in dollars that does not end: %.80q", rest)
			list = append(append(append(list, "$"), parts(t, body[:n])...), "$")
			end = len(tag) + n + len(tag)
		default:
			if end = strings.IndexAny(rest[1:], `"'$-/`) + 1; end == 0 {
				end = len(rest)
			}
			list = append(list, rest[:end])
		}
		i += end
	}
	return list
}

// of makes of the parts of a text for the schema "bearmq" those for another.
func of(schema string, list []string) []string {
	other := make([]string, len(list))
	for i, part := range list {
		switch part {
		case `"bearmq`, `'bearmq`:
			part = part[:1] + schema
		case "'" + notifyChannel("bearmq") + "_wake", "'" + notifyChannel("bearmq") + "_ends":
			part = strings.Replace(part, notifyChannel("bearmq"), notifyChannel(schema), 1)
		default:
			if part[0] == '\'' { // as of nextval
				part = strings.ReplaceAll(part, `"bearmq".`, pgx.Identifier{schema}.Sanitize()+".")
			}
		}
		other[i] = part
	}
	return other
}

// quoted is the length of the quoted text with which s begins.
func quoted(s string, quote byte) int {
	for i := 1; i < len(s); i++ {
		if s[i] != quote {
			continue
		}
		if i+1 == len(s) || s[i+1] != quote {
			return i + 1
		}
		i++
	}
	return 0
}

// dollar is the length of the dollar quote with which s begins.
func dollar(s string) int {
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '$':
			return i + 1
		case c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || i > 1 && c >= '0' && c <= '9':
		default:
			return 0
		}
	}
	return 0
}

// FuzzSchema makes schemas and drops them again, runs a job in each, and wants the database as it was.
func FuzzSchema(f *testing.F) {
	for _, s := range []string{`a"b`, `x'; DROP TABLE canary; --`, "a\n$body$ $do$ %s", "🐻 'bearmq.", strings.Repeat(`"`, 63)} {
		f.Add(s)
	}
	pool := pgtest.DB(f)
	all := func(t *testing.T) (names []string) {
		rows, err := pool.Query(t.Context(), "SELECT nspname::text FROM pg_namespace WHERE nspname NOT LIKE 'pg\\_%' UNION ALL SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1")
		require.NoError(t, err)
		names, err = pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		return names
	}
	f.Fuzz(func(t *testing.T, schema string) {
		s, err := New(pool, schema)
		if err != nil || schema == "public" || schema == "information_schema" {
			return
		}
		ctx, before := t.Context(), all(t)
		for _, name := range before {
			if name == schema {
				return // it is somebody's
			}
		}
		require.NoError(t, s.Migrate(ctx))
		defer func() {
			require.NoError(t, s.Drop(context.WithoutCancel(ctx)))
			require.Equal(t, before, all(t))
		}()
		require.ElementsMatch(t, append(before, schema), all(t))
		r := &rig{Store: s, t: t}
		r.lane = r.laneOf("default")
		r.session = r.newSession()
		jobs := []NewJob{r.job("g"), r.job("")}
		require.NoError(t, pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { return s.Copy(ctx, tx, jobs[:1]) }))
		require.NoError(t, s.Insert(ctx, pool, jobs[1:]))
		require.Equal(t, []int64{jobs[0].ID, jobs[1].ID}, r.drain())
		require.NoError(t, s.EndSession(ctx, pool, r.session))
	})
}

// FuzzFinish stores results and errors as they are given, and reads them back.
func FuzzFinish(f *testing.F) {
	f.Add("it failed", []byte(`{"a": [1, 2.50]}`), uint16(1))
	f.Add(`\u0000 "quoted" \`, []byte(`"\ud83d\ude00"`), uint16(32767))
	f.Add("\u2028 \ufffd <&>\t\r\n\x01\x7f", []byte("null"), uint16(2))
	r := &rig{t: f, skip: true}
	s, err := New(pgtest.DB(f), pgtest.Schema(f))
	require.NoError(f, err)
	require.NoError(f, s.Migrate(f.Context()))
	r.Store = s
	r.lane = r.laneOf("default")
	r.session = r.newSession()
	f.Fuzz(func(t *testing.T, text string, result []byte, attempt uint16) {
		// What the root package lets through.
		text = strings.ReplaceAll(strings.ToValidUTF8(text, "?"), "\x00", "")
		if !utf8.Valid(result) || !json.Valid(result) || strings.Contains(string(result), `\u`) || strings.Count(string(result), "[")+strings.Count(string(result), "{") > 1000 {
			result = []byte("1")
		}
		attempt = max(min(attempt, 32767), 1)
		r := &rig{Store: s, t: t, lane: r.lane, session: r.session, skip: true}
		ids := r.plain(2)
		c := r.claim(2)
		require.Len(t, c.Jobs, 2)
		r.finish(&Finish{Session: r.session, Leases: []FinishLease{{ID: c.Lease, Nonce: c.Nonce, Closed: true}},
			Done: []FinishDone{{ID: ids[0], Attempt: int16(attempt), Result: result, Took: time.Hour}},
			Rest: []FinishRest{{ID: ids[1], Op: OpFail, Attempt: int16(attempt), Error: text}}})
		state, got, _, err := s.Result(t.Context(), ids[0])
		require.NoError(t, err)
		require.Equal(t, []string{"completed", string(result)}, []string{state, string(got)})
		state, _, errText, err := s.Result(t.Context(), ids[1])
		require.NoError(t, err)
		require.Equal(t, []string{"failed", text}, []string{state, errText})
		require.Equal(t, []string{fmt.Sprint(attempt, " ", text)}, all[string](r, `SELECT attempt || ' ' || error FROM bearmq.attempt_error WHERE job_id = $1`, ids[1]))
		r.exec(`DELETE FROM bearmq.job; DELETE FROM bearmq.outcome; DELETE FROM bearmq.attempt_error`)
	})
}

// FuzzErrors: whatever error there is, it is not taken for a lost answer when PostgreSQL has answered.
func FuzzErrors(f *testing.F) {
	for _, c := range []string{"", "23505", "40001", "40P01", "57P01", "BQ001", "08006", "\xff", "0"} {
		f.Add(c, "text")
	}
	f.Fuzz(func(t *testing.T, sqlstate, text string) {
		err := fmt.Errorf("wrapped: %w", &pgconn.PgError{Code: sqlstate, Message: text})
		require.Equal(t, sqlstate == "", UnknownOutcome(err))
		require.Equal(t, sqlstate == "", errors.Is(wrapWrite("query", err), ErrUnknownOutcome))
		require.Equal(t, TooSlow(err), sqlstate == "57014")
		if sqlstate == "57014" || sqlstate == "" {
			require.True(t, Transient(err))
		}
	})
}
