//go:build unix

package stress

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/bearmq/bearmq"
	"github.com/bearmq/bearmq/internal/history"
)

// A role is what a child process is told to be, in its environment.
type role struct {
	Config
	Database     string // the connection string
	Process      string
	Number       int64
	Orchestrator bool
	Calm         int64 // from this time on no handler ends its process
}

const roleVariable = "BEARMQ_STRESS_ROLE"

// Child makes this process a worker or an orchestrator where the coordinator
// has started it as one, and then returns true and its exit code. A binary that
// runs the stress calls it first of all.
func Child() (is bool, code int) {
	text := os.Getenv(roleVariable)
	if text == "" {
		return false, 0
	}
	var r role
	err := json.Unmarshal([]byte(text), &r)
	if err == nil {
		err = r.run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, r.Process+":", err)
		return true, 1
	}
	return true, 0
}

// run works until it is told to stop, by SIGTERM or by the end of its standard
// input, which the coordinator holds until it wants no more, or is dead.
func (r role) run() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	journal, err := history.Open(r.Dir, r.Process)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(r.Dir, r.Process+".log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	goroutines := runtime.NumGoroutine()
	v := &vitals{}
	pool, err := connect(ctx, r.Database, r.application(r.Process), 8, v)
	if err != nil {
		return err
	}
	defer pool.Close()
	options := r.options()
	options.Logger = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelInfo}))
	mq, err := bearmq.New(pool, options)
	if err != nil {
		return err
	}
	mq.AddEventHandler(func(e bearmq.Event) {
		switch e := e.(type) {
		case bearmq.JobSucceeded:
			journal.Add(history.Record{Step: history.Succeeded, Job: int64(e.JobID)})
		case bearmq.JobExpired:
			journal.Add(history.Record{Step: history.Expired, Job: int64(e.JobID)})
		}
	})
	daemon, err := r.daemon(mq, &hands{role: r, pool: pool, journal: journal, vitals: v})
	if err != nil {
		return err
	}
	told := v.tell(filepath.Join(r.Dir, r.Process+vitalsSuffix), r.Sample)
	err = daemon.Run(ctx)
	err = errors.Join(err, told())
	if stuck := new(bearmq.StopError); errors.As(err, &stuck) {
		// Handlers that take no notice, and outlast the grace: they end with the process.
		return nil
	}
	pool.Close()
	return errors.Join(err, leftover(goroutines))
}

func (r role) daemon(mq *bearmq.Context, h *hands) (bearmq.Daemon, error) {
	if r.Orchestrator {
		if r.Load.Repeat {
			if err := mq.Register(repeat.RepeatWith(bearmq.Every(time.Second), slot)); err != nil {
				return nil, err
			}
		}
		return bearmq.NewOrchestrator(mq, bearmq.OrchestratorOptions{SchedulePoll: r.Poll, RecoverPoll: r.Sweep, CleanPoll: time.Second}), nil
	}
	if err := mq.Register(release.Handle(h.handle), strict.Handle(h.handle), repeat.Handle(h.handle)); err != nil {
		return nil, err
	}
	return bearmq.NewWorker(mq, bearmq.WorkerOptions{Concurrency: 30, PollInterval: r.Poll, StopGrace: r.Grace}), nil
}

// leftover is an error where more goroutines than before still run a while
// after everything was stopped.
func leftover(before int) error {
	for deadline := time.Now().Add(5 * time.Second); ; {
		n := runtime.NumGoroutine()
		if n <= before {
			return nil
		}
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			return fmt.Errorf("%d goroutines are left, before it were %d:\n%s", n, before, stacks[:runtime.Stack(stacks, true)])
		}
		wait(context.Background(), 10*time.Millisecond)
	}
}

// connect opens a pool whose connections the coordinator can find. Those that
// nobody needs are closed soon, so that their number follows from the work. The
// tracer may be nil.
func connect(ctx context.Context, url, application string, size int32, tracer pgx.QueryTracer) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.MaxConns, config.ConnConfig.Tracer = size, tracer
	config.MaxConnIdleTime, config.HealthCheckPeriod = 15*time.Second, 5*time.Second
	config.ConnConfig.RuntimeParams["application_name"] = application
	return pgxpool.NewWithConfig(ctx, config)
}

// wait returns false where ctx ends first.
func wait(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
