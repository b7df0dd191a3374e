//go:build unix

package stress

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/bearmq/bearmq/internal/invariant"
)

// Run does one run and checks it. The error says that it could not be done;
// what it found is in the violations.
func Run(ctx context.Context, c Config) ([]Violation, Summary, error) {
	pool, err := connect(ctx, Config{URL: c.URL, Schema: "stress"}, "coordinator", 4) // of another name: its connections are not cut
	if err != nil {
		return nil, Summary{}, err
	}
	defer pool.Close()
	if err := prepare(ctx, pool, c.Schema); err != nil {
		return nil, Summary{}, err
	}
	log, err := openJournal(c.Dir, "coordinator")
	if err != nil {
		return nil, Summary{}, err
	}
	r := &coordinator{Config: c, pool: pool, log: log, rand: rand.New(rand.NewPCG(c.Seed, 1<<32))}
	defer r.killAll()
	broken, err := r.run(ctx)
	if err != nil {
		return nil, Summary{}, err
	}
	facts, err := gather(ctx, pool, c)
	if err != nil {
		return nil, Summary{}, err
	}
	found, summary := Check(facts)
	found = append(found, broken...)
	if err := invariant.Check(ctx, pool, c.Schema); err != nil {
		found = append(found, Violation{Invariant, err.Error()})
	}
	return found, summary, nil
}

// A coordinator starts the processes and harms them.
type coordinator struct {
	Config
	pool    *pgxpool.Pool
	log     *journal
	rand    *rand.Rand // of the faults
	spawned int64

	workers      []*process
	orchestrator *process
}

// A process is a child.
type process struct {
	name  string
	cmd   *exec.Cmd
	stdin io.Closer // the child stops when it is closed
	ended chan error
}

func (r *coordinator) spawn(orchestrator bool) (*process, error) {
	r.spawned++
	name := fmt.Sprintf("worker%d", r.spawned)
	if orchestrator {
		name = fmt.Sprintf("orchestrator%d", r.spawned)
	}
	text, err := json.Marshal(role{Config: r.Config, Process: name, Number: r.spawned, Orchestrator: orchestrator})
	if err != nil {
		return nil, err
	}
	binary, err := os.Executable()
	if err != nil {
		return nil, err
	}
	output, err := os.Create(filepath.Join(r.Dir, name+".out"))
	if err != nil {
		return nil, err
	}
	defer output.Close()
	p := &process{name: name, cmd: exec.Command(binary), ended: make(chan error, 1)}
	p.cmd.Env = append(os.Environ(), roleVariable+"="+string(text))
	p.cmd.Stdout, p.cmd.Stderr = output, output
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	r.log.add(Record{Step: Spawn, Process: name, N: int64(p.cmd.Process.Pid)})
	go func() { p.ended <- p.cmd.Wait() }()
	return p, nil
}

// kill ends a process at once, and returns when it is dead.
func (r *coordinator) kill(p *process) {
	_ = p.cmd.Process.Kill()
	p.ended <- <-p.ended // stays there for whoever asks
	r.log.add(Record{Step: Kill, Process: p.name})
}

func (r *coordinator) killAll() {
	for _, p := range append(r.workers[:len(r.workers):len(r.workers)], r.orchestrator) {
		if p != nil {
			r.kill(p)
		}
	}
}

// run works until everything is quiet, or it is clear that it will not be.
func (r *coordinator) run(ctx context.Context) (broken []Violation, err error) {
	if r.orchestrator, err = r.spawn(true); err != nil {
		return nil, err
	}
	for range r.Workers {
		p, err := r.spawn(false)
		if err != nil {
			return nil, err
		}
		r.workers = append(r.workers, p)
	}

	producing, stop := context.WithCancel(ctx)
	defer stop()
	var producers sync.WaitGroup
	errs := make([]error, r.Producers+1)
	for i := range r.Producers {
		producers.Go(func() { errs[i] = r.produce(ctx, i) })
	}
	var faults sync.WaitGroup
	faults.Go(func() { errs[r.Producers] = r.harm(ctx, producing.Done()) })
	producers.Wait()
	stop()
	faults.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}

	if left := r.quiet(ctx); left != "" {
		r.killAll() // what is read from now on must not change
		return []Violation{{Liveness, fmt.Sprintf("%v after the last fault: %s", r.Quiet, left)}}, ctx.Err()
	}
	for _, p := range append(r.workers[:len(r.workers):len(r.workers)], r.orchestrator) {
		if err := r.end(p); err != nil {
			broken = append(broken, Violation{Liveness, fmt.Sprintf("%s did not end well: %v", p.name, err)})
		}
	}
	return broken, nil
}

func (r *coordinator) produce(ctx context.Context, number int) error {
	name := fmt.Sprintf("producer%d", number)
	log, err := openJournal(r.Dir, name)
	if err != nil {
		return err
	}
	pool, err := connect(ctx, r.Config, name, 2)
	if err != nil {
		return err
	}
	defer pool.Close()
	p, err := newProducer(r.Config, pool, log, number)
	if err != nil {
		return err
	}
	return p.run(ctx, r.Jobs/r.Producers)
}

// harm does what the Config says until enough is closed. Each fault comes at
// random, whatever came before, except that one worker sleeps at a time.
func (r *coordinator) harm(ctx context.Context, enough <-chan struct{}) error {
	kinds := []struct {
		mean time.Duration
		do   func(context.Context) error
	}{
		{r.Faults.Kill, r.killWorker},
		{r.Faults.Stop, func(ctx context.Context) error { return r.stopWorker(ctx, r.TTL+r.some(r.TTL)) }},
		{r.Faults.Pause, func(ctx context.Context) error { return r.stopWorker(ctx, r.some(r.TTL/2)) }},
		{r.Faults.Orchestrator, r.killOrchestrator},
		{r.Faults.Cut, r.cut},
	}
	next := make([]time.Time, len(kinds))
	for i, k := range kinds {
		next[i] = time.Now().Add(r.after(k.mean))
	}
	for {
		first := 0
		for i := range next {
			if next[i].Before(next[first]) {
				first = i
			}
		}
		t := time.NewTimer(time.Until(next[first]))
		select {
		case <-enough:
			t.Stop()
			return nil
		case <-t.C:
		}
		if err := kinds[first].do(ctx); err != nil {
			return err
		}
		next[first] = time.Now().Add(r.after(kinds[first].mean))
	}
}

func (r *coordinator) some(d time.Duration) time.Duration {
	return time.Duration(r.rand.Int64N(int64(d)))
}

// after is the time to the next of events that come at random.
func (r *coordinator) after(mean time.Duration) time.Duration {
	if mean == 0 {
		return 24 * time.Hour
	}
	return time.Duration(r.rand.ExpFloat64() * float64(mean))
}

func (r *coordinator) killWorker(context.Context) (err error) {
	i := r.rand.IntN(len(r.workers))
	r.kill(r.workers[i])
	r.workers[i], err = r.spawn(false)
	return err
}

func (r *coordinator) killOrchestrator(context.Context) (err error) {
	r.kill(r.orchestrator)
	r.orchestrator, err = r.spawn(true)
	return err
}

// stopWorker freezes a worker, and sometimes kills it in its sleep. Meanwhile
// connections are still cut.
func (r *coordinator) stopWorker(ctx context.Context, d time.Duration) (err error) {
	i := r.rand.IntN(len(r.workers))
	p := r.workers[i]
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	r.log.add(Record{Step: Stop, Process: p.name})
	for until := time.Now().Add(d); err == nil && time.Now().Before(until); {
		if !wait(ctx, min(max(r.after(r.Faults.Cut), time.Millisecond), time.Until(until))) {
			break
		}
		if time.Now().Before(until) {
			err = r.cut(ctx)
		}
	}
	if r.rand.Float64() < r.Faults.Asleep {
		r.kill(p)
		r.workers[i], err = r.spawn(false)
		return err
	}
	r.log.add(Record{Step: Resume, Process: p.name})
	return errors.Join(err, p.cmd.Process.Signal(syscall.SIGCONT))
}

// cut ends some connections of the producers, workers and orchestrators.
func (r *coordinator) cut(ctx context.Context) error {
	var n int64
	err := r.pool.QueryRow(ctx, `SELECT count(pg_terminate_backend(pid)) FROM (
		SELECT pid FROM pg_stat_activity WHERE application_name LIKE $1 ORDER BY random() LIMIT $2) a`,
		r.Schema+" %", 1+r.rand.IntN(3)).Scan(&n)
	if ctx.Err() != nil {
		return nil
	}
	r.log.add(Record{Step: Cut, N: n})
	return err
}

// quiet waits until every job has its end and nobody holds anything; it returns
// what is left where that takes too long.
func (r *coordinator) quiet(ctx context.Context) (left string) {
	schema := pgx.Identifier{r.Schema}.Sanitize()
	for deadline := time.Now().Add(r.Quiet); ; {
		var jobs, tickets, leases int
		err := r.pool.QueryRow(ctx, fmt.Sprintf(`SELECT (SELECT count(*) FROM %[1]s.job WHERE name IS NOT NULL) - (SELECT count(*) FROM %[1]s.outcome),
			(SELECT count(*) FROM %[1]s.ticket), (SELECT count(*) FROM %[1]s.lease WHERE NOT finished)`, schema)).Scan(&jobs, &tickets, &leases)
		switch {
		case err != nil:
			left = err.Error()
		case jobs == 0 && tickets == 0 && leases == 0:
			return ""
		default:
			left = fmt.Sprintf("%d jobs without an end, %d tickets, %d leases", jobs, tickets, leases)
		}
		if time.Now().After(deadline) || !wait(ctx, 100*time.Millisecond) {
			return left
		}
	}
}

// end stops a process in good order.
func (r *coordinator) end(p *process) error {
	if err := p.stdin.Close(); err != nil {
		return err
	}
	t := time.NewTimer(30 * time.Second)
	defer t.Stop()
	select {
	case err := <-p.ended:
		p.ended <- err
		return err
	case <-t.C:
		return errors.New("it was still running 30 s after it was told to stop")
	}
}
