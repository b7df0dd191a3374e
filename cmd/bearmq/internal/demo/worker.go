package demo

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/bearmq/bearmq"
)

// WorkerCommand is the subcommand of a worker process. It is not for users:
// RunWorker takes the rest from the environment and talks with its parent by
// standard input and output.
const WorkerCommand = "demo-worker"

// What the parent tells a worker process, a line each; the end of its input
// tells it to stop.
const sayHold = "hold" // let no payment end any more

// What a worker process tells its parent, a line each, with a text behind it.
const (
	saidReady   = "ready"
	saidHolding = "holding" // payments are under way, so many
	saidReport  = "report"
	saidFailed  = "failed" // a job has failed for good
)

// The environment of a worker process. A connection string may hold a
// password, which the arguments of a process would show to everybody.
const (
	envURL     = "BEARMQ_DEMO_URL"
	envSchema  = "BEARMQ_DEMO_SCHEMA"
	envVerbose = "BEARMQ_DEMO_VERBOSE"
)

const (
	concurrency  = 40
	reserved     = 4 // slots for express orders, beside those
	workerConns  = 10
	holdFor      = 200 * time.Millisecond // until it is killed, so that payments gather
	stopGrace    = 3 * time.Second
	stopPatience = 12 * time.Second // then a worker process ends whatever it does
)

// RunWorker is a worker process: one worker for everything, and a few slots
// reserved for express orders.
func RunWorker(ctx context.Context, in io.Reader, out, errs io.Writer) error {
	// A Ctrl-C reaches all processes of the terminal; what is to be done about
	// it is the parent's affair.
	signal.Ignore(os.Interrupt)
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()

	say := speaker(out)
	pay := newPayments()
	go func() {
		listen(in, pay, say)
		stop()
		time.AfterFunc(stopPatience, func() { os.Exit(1) })
	}()

	pool, err := connect(ctx, os.Getenv(envURL), workerConns)
	if err != nil {
		return err
	}
	defer pool.Close()
	mq, err := bearmq.New(pool, options(os.Getenv(envSchema), logger(errs, os.Getenv(envVerbose) != "")))
	if err != nil {
		return err
	}
	shop := newShop(pool, os.Getenv(envSchema))
	if err := mq.Register(
		bookOrder.Handle(shop.book(pay)),
		report.Handle(func(ctx context.Context, job *bearmq.Job[bearmq.None]) error {
			booked, cents, err := shop.status(ctx)
			if err == nil {
				say(saidReport, fmt.Sprintf("%s orders booked, %s taken", thousands(booked), money(cents)))
			}
			return err
		}),
	); err != nil {
		return err
	}
	mq.AddEventHandler(func(e bearmq.Event) {
		switch e := e.(type) {
		case bearmq.DaemonStarted:
			say(saidReady, e.Daemon)
		case bearmq.JobExpired:
			say(saidFailed, fmt.Sprintf("job %v of %s: %v", e.JobID, e.Group, e.Err))
		}
	})
	return bearmq.Run(ctx,
		bearmq.NewWorker(mq, bearmq.WorkerOptions{Concurrency: concurrency, StopGrace: stopGrace}),
		bearmq.NewWorker(mq, bearmq.WorkerOptions{Channels: []string{express}, Concurrency: reserved, StopGrace: stopGrace}),
	)
}

// listen does what the parent says, until it says no more.
func listen(in io.Reader, pay *payments, say func(what, text string)) {
	for lines := bufio.NewScanner(in); lines.Scan(); {
		if lines.Text() != sayHold {
			continue
		}
		close(pay.held)
		go func() {
			time.Sleep(holdFor)
			for range pay.started {
				if n := pay.under.Load(); n > 0 {
					say(saidHolding, fmt.Sprint(n))
					return
				}
			}
		}()
	}
}

// speaker writes whole lines.
func speaker(out io.Writer) func(what, text string) {
	var mu sync.Mutex
	return func(what, text string) {
		mu.Lock()
		defer mu.Unlock()
		_, _ = fmt.Fprintln(out, what, text) // a parent that has gone is noticed by the end of the input
	}
}

// options are the same in all processes.
func options(schema string, log *slog.Logger) bearmq.Options {
	return bearmq.Options{Schema: schema, SessionTTL: sessionTTL, Logger: log}
}

// logger drops the log lines, which belong to the events that the demo shows
// in its own words, unless they are asked for.
func logger(w io.Writer, verbose bool) *slog.Logger {
	if !verbose {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(w, nil))
}

func connect(ctx context.Context, url string, conns int32) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.MaxConns = conns
	return pgxpool.NewWithConfig(ctx, config)
}
