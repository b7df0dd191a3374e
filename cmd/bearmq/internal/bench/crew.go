package bench

import (
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"
)

// A crew is the worker processes of a round.
type crew struct {
	workers []*workerProcess
	news    chan struct{} // has a word when something has come

	mu      sync.Mutex
	err     error
	ready   int
	ran     timeline
	acked   map[int64]bool
	reports int
	ledger  ledger
	stopped int64 // when the last worker had stopped
	first   int64 // when the first job started
	started []int64
	calls   map[string][]time.Duration
}

type workerProcess struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *gob.Encoder
	done chan struct{} // closed when nothing more comes from it
}

// stall is after how long without any progress jobs count as lost. It is longer
// than a session's time to live, after which a lost worker's jobs go on.
const stall = 60 * time.Second

// hire starts the worker processes and waits until they are ready to run.
func (r *round) hire(ctx context.Context, sampleEvery int, orchestrate bool) (*crew, error) {
	c := &crew{news: make(chan struct{}, 1), acked: map[int64]bool{}, ledger: newLedger(r.opts.jobs), calls: map[string][]time.Duration{}}
	r.crew = c
	if sampleEvery > 0 {
		c.started = make([]int64, r.opts.jobs/sampleEvery+1)
	}
	for n := range r.opts.processes {
		err := c.start(ctx, assignment{URL: r.db.server.URL(), Database: r.db.name, Shape: r.opts.shape(), Jobs: r.opts.jobs, Process: n,
			Slots: r.opts.slots, Handler: r.opts.handler, Retention: r.opts.retention, Orchestrate: orchestrate && n == 0, SampleEvery: sampleEvery}, r.stderr)
		if err != nil {
			return nil, fmt.Errorf("starting worker process %d: %w", n+1, err)
		}
	}
	return c, c.await(ctx, "worker processes to start", func() (int, bool) { return c.ready, c.ready == len(c.workers) })
}

func (c *crew) start(ctx context.Context, a assignment, stderr io.Writer) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, ChildCommand)
	cmd.Stderr = stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	w := &workerProcess{cmd: cmd, in: in, out: gob.NewEncoder(in), done: make(chan struct{})}
	c.workers = append(c.workers, w)
	go func() {
		defer close(w.done)
		c.listen(gob.NewDecoder(out))
	}()
	return w.out.Encode(a)
}

// listen takes what a worker process says until it has no more to say.
func (c *crew) listen(in *gob.Decoder) {
	for {
		var m message
		err := in.Decode(&m)
		c.mu.Lock()
		switch {
		case errors.Is(err, io.EOF) && c.reports > 0:
		case err != nil:
			c.fail(fmt.Errorf("a worker process has ended: %w", err))
		default:
			c.take(m)
		}
		c.mu.Unlock()
		c.ring()
		if err != nil {
			return
		}
	}
}

func (c *crew) ring() {
	select {
	case c.news <- struct{}{}:
	default:
	}
}

func (c *crew) fail(err error) {
	if c.err == nil {
		c.err = err
	}
}

func (c *crew) take(m message) {
	switch m.Kind {
	case isReady:
		c.ready++
	case hasRun:
		c.ran.add(m.At, m.Ran)
	case hasSucceeded:
		for _, id := range m.IDs {
			c.acked[id] = true
		}
	case isReport:
		c.reports++
		c.ran.add(m.At, m.Ran)
		c.ledger.merge(m.Ledger)
		c.stopped = max(c.stopped, m.At)
		if m.First > 0 && (c.first == 0 || m.First < c.first) {
			c.first = m.First
		}
		for i, at := range m.Started {
			c.started[i] = max(c.started[i], at)
		}
		for name, took := range m.Calls {
			c.calls[name] = append(c.calls[name], took...)
		}
		if m.Err != "" {
			c.fail(fmt.Errorf("stopping a worker: %s", m.Err))
		}
	case hasFailed:
		c.fail(fmt.Errorf("a worker process failed: %s", m.Err))
	}
}

// await waits until done, which is called with the lock held and returns the
// progress too.
func (c *crew) await(ctx context.Context, what string, done func() (progress int, ok bool)) error {
	last, since := -1, time.Now()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		c.mu.Lock()
		n, ok := done()
		err := c.err
		c.mu.Unlock()
		switch {
		case err != nil:
			return err
		case ok:
			return nil
		}
		if n != last {
			last, since = n, time.Now()
		}
		if time.Since(since) > stall {
			return &CheckError{fmt.Sprintf("waiting for %s: nothing has happened for %v, at %s", what, stall, thousands(n))}
		}
		select {
		case <-c.news:
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (c *crew) order(o order, workers ...*workerProcess) error {
	for _, w := range workers {
		if err := w.out.Encode(o); err != nil {
			return fmt.Errorf("a worker process does not listen: %w", err)
		}
	}
	return nil
}

// run starts the workers and returns when that was.
func (c *crew) run() (time.Time, error) {
	now := time.Now()
	return now, c.order(orderRun, c.workers...)
}

// total is how many jobs have run.
func (c *crew) total() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ran.total
}

// finish waits until n jobs have run, stops the workers, and returns when all
// of them had stopped: all that they ran is written then.
func (c *crew) finish(ctx context.Context, n int) (time.Time, error) {
	what := fmt.Sprintf("%s jobs to run", thousands(n))
	if err := c.await(ctx, what, func() (int, bool) { return c.ran.total, c.ran.total >= n }); err != nil {
		return time.Time{}, err
	}
	if err := c.order(orderStop, c.workers...); err != nil {
		return time.Time{}, err
	}
	err := c.await(ctx, "worker processes to stop", func() (int, bool) { return c.reports, c.reports == len(c.workers) })
	return time.Unix(0, c.stopped), err
}

// dismiss ends the worker processes.
func (c *crew) dismiss() {
	for _, w := range c.workers {
		_ = w.in.Close()
	}
	for _, w := range c.workers {
		select {
		case <-w.done:
		case <-time.After(10 * time.Second):
			_ = w.cmd.Process.Kill()
			<-w.done
		}
		_ = w.cmd.Wait() // how it ended does not matter any more
	}
}

// kill ends them at once: the server that they work for is gone.
func (c *crew) kill() {
	for _, w := range c.workers {
		_ = w.cmd.Process.Kill()
	}
	c.dismiss()
}
