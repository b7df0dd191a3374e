//go:build unix

// Command chaos attacks the library for as long as one likes, and proves that
// it kept its promises:
//
//	go run ./internal/chaos -seed 7 -duration 60s
//
// It starts a PostgreSQL of its own, a proxy in front of it, and workers and
// orchestrators that are processes; harms all of them at times drawn from the
// seed; lets everything come to rest; and checks the history that they wrote. It
// prints a table, and where a promise was broken it says which, leaves the
// history, and exits with 1.
//
// With -soak FILE.csv the load is steady, faults are few, and finished jobs are
// deleted soon: memory, goroutines, connections, tables and latencies are sampled
// into the file, and it exits with 1 if one of them has grown. It needs Linux's
// /proc.
//
// With -kills 50 nothing happens but that workers are killed, until so many
// are, and it is judged how long it takes until their jobs start elsewhere.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/bearmq/bearmq"
	"github.com/bearmq/bearmq/internal/pgserver"
	"github.com/bearmq/bearmq/internal/proxy"
	"github.com/bearmq/bearmq/internal/stress"
)

// The exit codes.
const (
	kept   = 0
	broken = 1 // a promise; or something grows
	failed = 2 // the run could not be done
)

func main() {
	if is, code := stress.Child(); is {
		os.Exit(code)
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// options are the command line.
type options struct {
	seed     uint64
	duration time.Duration
	kills    int
	soak     string
	json     bool
}

func parse(args []string, log io.Writer) (o options, err error) {
	flags := flag.NewFlagSet("chaos", flag.ContinueOnError)
	flags.SetOutput(log)
	flags.Uint64Var(&o.seed, "seed", 0, "of everything that is drawn at random; 0: a new one")
	flags.DurationVar(&o.duration, "duration", time.Minute, "how long there are new jobs and faults")
	flags.IntVar(&o.kills, "kills", 0, "only kill so many workers, and judge the time to recover; -duration does not count then")
	flags.StringVar(&o.soak, "soak", "", "a steady load, sampled into this CSV file: nothing may grow")
	flags.BoolVar(&o.json, "json", false, "print the result as JSON")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	switch {
	case flags.NArg() > 0:
		return o, fmt.Errorf("%q is not an option: see -help", flags.Arg(0))
	case o.duration < time.Second:
		return o, fmt.Errorf("-duration is %v, it must be at least 1s", o.duration)
	case o.kills < 0:
		return o, fmt.Errorf("-kills is %d, it must not be negative", o.kills)
	case o.kills > 0 && o.soak != "":
		return o, errors.New("-kills and -soak are two different runs: choose one")
	}
	if o.seed == 0 {
		o.seed = uint64(rand.Uint32())
	}
	return o, nil
}

// command repeats the run.
func (o options) command() string {
	c := fmt.Sprintf("go run ./internal/chaos -seed %d", o.seed)
	if o.kills > 0 {
		return fmt.Sprintf("%s -kills %d", c, o.kills)
	}
	c = fmt.Sprintf("%s -duration %v", c, o.duration)
	if o.soak != "" {
		c += " -soak " + o.soak
	}
	return c
}

func run(args []string, out, log io.Writer) int {
	o, err := parse(args, log)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return kept
	case err != nil:
		fmt.Fprintln(log, "chaos:", err)
		return failed
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	r, err := attack(ctx, o, log)
	if err != nil {
		fmt.Fprintln(log, "chaos:", err)
		return failed
	}
	if err := r.print(out, o.json); err != nil {
		fmt.Fprintln(log, "chaos:", err)
		return failed
	}
	return r.code()
}

// attack does one run on a server of its own. The history is removed where no
// promise was broken.
func attack(ctx context.Context, o options, log io.Writer) (_ *result, err error) {
	dir, err := os.MkdirTemp("", "bearmq-chaos-")
	if err != nil {
		return nil, err
	}
	say := speaker(log)
	say(fmt.Sprintf("seed %d, the history is in %s", o.seed, dir))
	server, err := pgserver.Open(ctx, pgserver.Options{Private: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	between, via, err := proxy.For(server.URL())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, between.Close()) }()

	c := o.config()
	c.Dir, c.Say = dir, say
	c.Place = stress.Place{URL: server.URL(), Proxy: between, Via: via, Server: server}
	if err := migrate(ctx, c); err != nil {
		return nil, err
	}
	var samples *recorder
	if o.soak != "" {
		if samples, err = record(o.soak); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, samples.close()) }()
		c.Sampled = samples.add
	}
	began := time.Now()
	found, summary, err := stress.Run(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("%w; what was written until then is in %s", err, dir)
	}
	r := &result{Seed: o.seed, Took: time.Since(began), Command: o.command(), Bound: bound(c), Summary: summary, Violations: found}
	if samples != nil {
		if r.Soak, err = samples.judge(warm(c)); err != nil {
			return nil, err
		}
	}
	if len(found) == 0 {
		return r, os.RemoveAll(dir)
	}
	r.History = dir
	return r, nil
}

func migrate(ctx context.Context, c stress.Config) error {
	pool, err := pgxpool.New(ctx, c.URL)
	if err != nil {
		return err
	}
	defer pool.Close()
	mq, err := bearmq.New(pool, bearmq.Options{Schema: c.Schema})
	if err != nil {
		return err
	}
	return mq.Migrate(ctx)
}

// speaker says what goes on, with the time since the beginning.
func speaker(log io.Writer) func(string) {
	began := time.Now()
	var mu sync.Mutex
	return func(text string) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(log, "%6.1f s  %s\n", time.Since(began).Seconds(), strings.TrimSpace(text))
	}
}

// bound is the promise: the TTL, one sweep, one poll, and a second of slack.
func bound(c stress.Config) time.Duration { return c.TTL + c.Sweep + c.Poll + time.Second }
