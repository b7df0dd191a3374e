package main

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq/cmd/bearmq/internal/demo"
	"github.com/bearmq/bearmq/internal/pgtest"
)

// The demo runs its own program again for its worker processes, which is the
// test binary here.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == demo.WorkerCommand {
		main()
	}
	os.Exit(pgtest.Run(m))
}

// A result is what a call of the program gave.
type result struct {
	code     int
	out, err string
}

func call(t *testing.T, args ...string) result {
	t.Helper()
	return callWith(t.Context(), "", args...)
}

func callWith(ctx context.Context, input string, args ...string) result {
	var out, errs bytes.Buffer
	code := run(ctx, args, streams{in: strings.NewReader(input), out: &out, err: &errs})
	return result{code, out.String(), errs.String()}
}

func TestHelpIsWrittenToStandardOutput(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"help"}, {"--help"}, {"-h"}, {"help", "help"}} {
		r := call(t, args...)
		require.Equal(t, result{exitOK, usage, ""}, r, "%v", args)
	}
}

func TestEachCommandHasHelp(t *testing.T) {
	t.Parallel()
	for command, flag := range map[string]string{"demo": "--rate n", "migrate": "--schema name", "version": "--json"} {
		for _, args := range [][]string{{"help", command}, {command, "--help"}, {command, "-h"}} {
			r := call(t, args...)
			require.Equal(t, exitOK, r.code, "%v", args)
			require.Empty(t, r.err, "%v", args)
			require.Contains(t, r.out, "bearmq "+command)
			require.Contains(t, r.out, flag)
		}
	}
}

func TestWrongCallsAreToldApartFromFailures(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args string
		want string
	}{
		{"", "a command is missing"},
		{"dance", `no command "dance"`},
		{"help dance", `no command "dance"`},
		{"version now", `version takes no "now"`},
		{"version --sql", "flag provided but not defined: --sql"},
		{"migrate", "one of up, status, sql, repair and drop"},
		{"migrate drop --yes --schema=", "--schema is empty"},
		{"migrate sql --schema=", "--schema is empty"},
		{"migrate sideways", `does not know "sideways"`},
		{"migrate up down", `migrate up takes no "down"`},
		{"migrate up --schema", "flag needs an argument: --schema"},
		{"demo 600", `demo takes no "600"`},
		{"demo --orders many", `invalid value "many" for flag --orders`},
		{"demo --orders -1", "--orders must not be negative"},
		{"demo --rate 0", "--rate must be at least 1"},
	} {
		t.Run(c.args, func(t *testing.T) {
			t.Parallel()
			r := call(t, strings.Fields(c.args)...)
			require.Equal(t, exitUsage, r.code)
			require.Contains(t, r.err, c.want)
			require.Contains(t, r.err, "see bearmq help")
			require.Empty(t, r.out)
		})
	}
}

func TestErrorsAreJSONWhereJSONIsAskedFor(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"dance --json":           `no command \"dance\"; see bearmq help`,
		"version now --json":     `version takes no \"now\"; see bearmq help version`,
		"--json migrate":         `no command \"--json\"`,
		"migrate sideways -json": `does not know \"sideways\"`,
		"bench dance --json":     `\"dance\" is not a WORK`,
		"bench --json --jobs=x":  `invalid value \"x\" for flag -jobs`,
	} {
		r := call(t, strings.Fields(args)...)
		require.Equal(t, exitUsage, r.code, args)
		require.Regexp(t, `^\{\s*"error": ?"`, r.out, args)
		require.Contains(t, r.out, want)
	}
}

func TestVersionNamesProgramAndSchema(t *testing.T) {
	t.Parallel()
	r := call(t, "version")
	require.Equal(t, exitOK, r.code)
	require.Regexp(t, `^bearmq \S+, schema version \d+, go1\.\S+\n$`, r.out)
	require.Contains(t, call(t, "version", "--json").out, `"schema_version": `)
}
