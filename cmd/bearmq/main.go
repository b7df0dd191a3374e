// Command bearmq migrates the schemas of BearMQ and shows what it can do.
// `bearmq help` lists its commands.
//
// It exits with 0 when it has done what was asked, 1 when that failed, 2 when
// it was called wrongly, and 130 when it was interrupted. With --json it
// prints one JSON value, which is {"error": text} where it failed.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/bearmq/bearmq"
	"github.com/bearmq/bearmq/cmd/bearmq/internal/bench"
	"github.com/bearmq/bearmq/cmd/bearmq/internal/demo"
)

// The exit codes.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], standardStreams()))
}

// streams are the program's ends.
type streams struct {
	in       io.Reader
	out, err io.Writer
	terminal bool // out is one
}

func standardStreams() streams {
	info, err := os.Stdout.Stat()
	return streams{os.Stdin, os.Stdout, os.Stderr, err == nil && info.Mode()&os.ModeCharDevice != 0}
}

const usage = `bearmq runs background jobs on PostgreSQL; this is its tool.

  bearmq demo             20,000 orders through worker processes, one of which is killed
  bearmq bench [work]     the speed of this machine, beside what PostgreSQL can do at all
  bearmq migrate up       make the schema, or bring it to this version
  bearmq migrate status   compare the schema's version with this program's
  bearmq migrate sql      print the script that "up" runs
  bearmq migrate repair   take over a database that was restored from another cluster
  bearmq migrate drop     remove the schema with all its jobs
  bearmq version          the versions of program and schema
  bearmq help [command]   this text, or that of a command

Exit codes: 0 done, 1 failed, 2 called wrongly, 130 interrupted.
With --json each command prints one JSON value; {"error": "..."} where it failed.
`

// A usageError says that the program was called wrongly.
type usageError struct {
	text    string
	command string // whose help to read
}

func (e *usageError) Error() string { return e.text }

func run(ctx context.Context, args []string, s streams) int {
	if len(args) > 0 && args[0] == demo.WorkerCommand {
		if err := demo.RunWorker(ctx, s.in, s.out, s.err); err != nil {
			fmt.Fprintln(s.err, err)
			return exitFailed
		}
		return exitOK
	}
	if len(args) > 0 && args[0] == bench.ChildCommand {
		return bench.ChildMain(ctx, s.in, s.out, s.err)
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	defer context.AfterFunc(ctx, stop)()     // a second Ctrl-C ends the program at once
	if len(args) > 0 && args[0] == "bench" { // it reports by itself, and has the same exit codes
		return bench.Main(ctx, args[1:], s.out, s.err)
	}
	return report(ctx, dispatch(ctx, args, s), args, s)
}

// dispatch finds the command.
func dispatch(ctx context.Context, args []string, s streams) error {
	if len(args) == 0 {
		fmt.Fprint(s.err, usage)
		return &usageError{text: "a command is missing"}
	}
	switch name, rest := args[0], args[1:]; name {
	case "demo":
		return runDemo(ctx, rest, s)
	case "migrate":
		return migrate(ctx, rest, s)
	case "version", "-version", "--version":
		return version(rest, s)
	case "help", "-h", "-help", "--help":
		return help(ctx, rest, s)
	default:
		return &usageError{text: fmt.Sprintf("there is no command %q", name)}
	}
}

func help(ctx context.Context, args []string, s streams) error {
	if len(args) == 0 || args[0] == "help" {
		_, err := fmt.Fprint(s.out, usage)
		return err
	}
	if args[0] == "bench" {
		bench.Main(ctx, append(args[1:], "--help"), s.out, s.err)
		return nil
	}
	return dispatch(ctx, append(args, "--help"), s)
}

// report writes the error, if there is one, and gives the exit code.
func report(ctx context.Context, err error, args []string, s streams) int {
	var wrong *usageError
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return exitOK
	case errors.As(err, &wrong):
		text := fmt.Sprintf("%v; see bearmq %s", err, strings.TrimSpace("help "+wrong.command))
		if wantsJSON(args) {
			_ = writeJSON(s.out, map[string]string{"error": text})
		} else {
			fmt.Fprintf(s.err, "bearmq: %s\n", text)
		}
		return exitUsage
	case ctx.Err() != nil && onlyCancelled(err):
		fmt.Fprintln(s.err, "bearmq: interrupted")
		return exitInterrupted
	case wantsJSON(args) && !errors.Is(err, demo.ErrWrong): // a wrong demo's JSON says so
		_ = writeJSON(s.out, map[string]string{"error": explain(err)})
	default:
		fmt.Fprintf(s.err, "bearmq: %s\n", explain(err))
	}
	return exitFailed
}

// onlyCancelled tells an interruption from an error on the way out, which is
// to be seen.
func onlyCancelled(err error) bool {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			if !onlyCancelled(e) {
				return false
			}
		}
		return true
	}
	return errors.Is(err, context.Canceled)
}

func version(args []string, s streams) error {
	f := newFlags("version", "bearmq version [--json]", s)
	if err := f.parseOnly(args); err != nil {
		return err
	}
	v := struct {
		Version string `json:"version"`
		Schema  int    `json:"schema_version"`
		Go      string `json:"go"`
	}{"unknown", bearmq.LibrarySchemaVersion(), runtime.Version()}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		v.Version = info.Main.Version
	}
	if f.json {
		return writeJSON(s.out, v)
	}
	_, err := fmt.Fprintf(s.out, "bearmq %s, schema version %d, %s\n", v.Version, v.Schema, v.Go)
	return err
}

func writeJSON(w io.Writer, v any) error {
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	out.SetEscapeHTML(false)
	return out.Encode(v)
}
