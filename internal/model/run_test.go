package model

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/bearmq/bearmq/internal/pgtest"
)

// TestMain sets rapid's defaults to what fits cases that talk to a database. Flags and RAPID_… variables have precedence:
//
//	go test ./internal/model -run TestModel -rapid.checks=2000 -rapid.steps=100
func TestMain(m *testing.M) {
	for _, d := range []struct{ name, env, value string }{
		{"rapid.checks", "RAPID_CHECKS", "100"},
		{"rapid.steps", "RAPID_STEPS", "25"},
		{"rapid.nofailfile", "RAPID_NOFAILFILE", "true"}, // a failure tells its seed
	} {
		if os.Getenv(d.env) == "" {
			if err := flag.Set(d.name, d.value); err != nil {
				panic(err)
			}
		}
	}
	os.Exit(pgtest.Run(m))
}

// play is one case.
func play(s *site) func(*rapid.T) {
	return func(t *rapid.T) {
		if !s.failed.IsZero() && time.Since(s.failed) > s.patience {
			return // it is short enough
		}
		m := newMachine(t, s)
		t.Repeat(m.actions())
		m.drain(t)
	}
}

func TestModel(t *testing.T) {
	t.Parallel()
	failed, story := examine(t, newSite(t))
	if t.Log(story); failed {
		t.Fail()
	}
}

// examine plays cases until one fails, makes that as short as it can, and tells its story.
func examine(t *testing.T, s *site) (failed bool, story string) {
	t.Helper()
	w := &witness{name: t.Name()}
	w.watch(func() { rapid.Check(w, play(s)) })
	return w.failed, strings.Join(append(w.lines, s.shortest...), "\n")
}

// A witness is a test that may fail without failing. It remembers what it is told, but for the values that were drawn: the
// steps tell more.
type witness struct {
	name   string
	lines  []string
	failed bool
}

var errOver = errors.New("over")

// watch runs a check that ends by FailNow or by itself.
func (w *witness) watch(check func()) {
	defer func() {
		if v := recover(); v != nil && v != errOver {
			panic(v)
		}
	}()
	check()
}

func (w *witness) add(line string) {
	if !strings.HasPrefix(line, "[rapid] draw") {
		w.lines = append(w.lines, line)
	}
}

func (w *witness) Helper()                      {}
func (w *witness) Name() string                 { return w.name }
func (w *witness) Failed() bool                 { return w.failed }
func (w *witness) Fail()                        { w.failed = true }
func (w *witness) FailNow()                     { w.Fail(); panic(errOver) }
func (w *witness) SkipNow()                     { panic("a check is not skipped") }
func (w *witness) Skip(...any)                  { w.SkipNow() }
func (w *witness) Skipf(string, ...any)         { w.SkipNow() }
func (w *witness) Log(args ...any)              { w.add(fmt.Sprint(args...)) }
func (w *witness) Logf(f string, args ...any)   { w.add(fmt.Sprintf(f, args...)) }
func (w *witness) Error(args ...any)            { w.Log(args...); w.Fail() }
func (w *witness) Errorf(f string, args ...any) { w.Logf(f, args...); w.Fail() }
func (w *witness) Fatal(args ...any)            { w.Log(args...); w.FailNow() }
func (w *witness) Fatalf(f string, args ...any) { w.Logf(f, args...); w.FailNow() }
