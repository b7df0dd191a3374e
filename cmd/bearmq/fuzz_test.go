package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq"
)

// FuzzFlags gives a command's flags any arguments: they are refused as a wrong call, or mean the same wherever they stand.
func FuzzFlags(f *testing.F) {
	for _, args := range []string{"", "up", "--schema\nx\nup", "up\n--schema=x", "-yes\nup\n--json", "--yes=false\n--yes", "--schema", "--nope", "--json=maybe", "--\n--yes",
		"-h", "--help", "up\n--\nmore", "-", "---", "--schema=\n", "=", "\x00\n\xff", "--schema=a=b"} {
		f.Add(args)
	}
	type read struct {
		words            []string
		schema, database string
		yes, json        bool
	}
	parse := func(args []string) (r read, err error) {
		flags := newFlags("migrate", "usage", streams{out: io.Discard, err: io.Discard})
		flags.StringVar(&r.schema, "schema", "bearmq", "")
		flags.StringVar(&r.database, "database", "", "")
		flags.BoolVar(&r.yes, "yes", false, "")
		r.words, err = flags.parse(args)
		r.json = flags.json
		return r, err
	}
	f.Fuzz(func(t *testing.T, text string) {
		args := strings.Split(text, "\n")
		given := slices.Clone(args)
		got, err := parse(args)
		require.Equal(t, given, args, "they are not changed")
		if err != nil {
			var wrong *usageError
			require.True(t, errors.As(err, &wrong) && wrong.command == "migrate" && wrong.text != "" || errors.Is(err, flag.ErrHelp), "%v", err)
			return
		}
		last := -1 // the words are among the arguments, in their order
		for _, word := range got.words {
			i := slices.Index(args[last+1:], word)
			require.GreaterOrEqual(t, i, 0, "%q", word)
			last += 1 + i
		}
		for _, word := range got.words {
			if len(word) > 1 && word[0] == '-' {
				return // after --: it cannot be said in another way
			}
		}
		flags := []string{"--schema=" + got.schema, "--database=" + got.database, fmt.Sprint("--yes=", got.yes), fmt.Sprint("--json=", got.json)}
		for _, again := range [][]string{slices.Concat(flags, got.words), slices.Concat(got.words, flags)} {
			same, err := parse(again)
			require.NoError(t, err)
			require.Equal(t, got, same, "%q", again)
		}
	})
}

// FuzzCommand calls the program with words that are no command, or a wrong one.
func FuzzCommand(f *testing.F) {
	for _, args := range []string{"nope", "--nope", "migrate", "migrate\nnope", "migrate\nup\nagain", "version\nx", "demo\n--rate=0", "demo\n--orders=-1", "help\nnope",
		"migrate\n--schema=\nup", "", "\x00", "demo\nx", "version\n--json=1"} {
		f.Add(args)
	}
	f.Fuzz(func(t *testing.T, text string) {
		args := strings.Split(text, "\n")
		for _, word := range []string{"demo", "bench", "up", "status", "drop"} { // they do something
			if slices.Contains(args, word) && !slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "--rate=0") || strings.HasPrefix(a, "--orders=-") }) {
				return
			}
		}
		if strings.HasPrefix(args[0], "demo-") || strings.HasPrefix(args[0], "bench-") || len(args[0]) > 0 && args[0][0] == '_' {
			return
		}
		got := call(t, args...)
		require.Contains(t, []int{exitOK, exitFailed, exitUsage}, got.code)
		switch got.code {
		case exitOK:
			require.Empty(t, got.err)
			require.NotEmpty(t, got.out)
		case exitUsage:
			require.Empty(t, got.out)
			require.Contains(t, got.err, "see bearmq help")
		default:
			require.NotEmpty(t, got.out+got.err)
		}
	})
}

// FuzzMigrateSQL: the script that is printed is that of the library, for every name that may be a schema's.
func FuzzMigrateSQL(f *testing.F) {
	for _, schema := range []string{"bearmq", "", `a"b`, "x'; DROP TABLE x; --", "-x", "--json", "\x00", "\xff", "pg_x", "a\nb", strings.Repeat("n", 64)} {
		f.Add(schema)
	}
	f.Fuzz(func(t *testing.T, schema string) {
		script, err := bearmq.MigrationSQL(schema)
		got := call(t, "migrate", "sql", "--schema="+schema)
		asJSON := call(t, "migrate", "sql", "--json", "--schema="+schema)
		if err != nil {
			require.Contains(t, []int{exitFailed, exitUsage}, got.code)
			require.Empty(t, got.out)
			require.NotEmpty(t, got.err)
			return
		}
		require.Equal(t, result{exitOK, script, ""}, got)
		var read struct{ Schema, SQL string }
		require.NoError(t, json.Unmarshal([]byte(asJSON.out), &read))
		require.Equal(t, schema, read.Schema)
		require.Equal(t, strings.TrimSuffix(script, "\n"), strings.TrimSuffix(read.SQL, "\n"))
	})
}
