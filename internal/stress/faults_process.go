//go:build unix

package stress

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/bearmq/bearmq/internal/history"
)

// mortal are the places whose processes may end before the run does.
func (r *coordinator) mortal(of []*place) []*place { return of[r.Faults.Spare:] }

func (r *coordinator) killWorker(ctx context.Context, draw *rand.Rand) error {
	at := one(draw, r.mortal(r.workers))
	if n := r.Faults.Kills; n > 0 {
		if int(r.kills.Load()) >= n {
			return nil
		}
		// It is to lose something.
		var err error
		if at, err = r.busy(ctx, draw, r.mortal(r.workers)); at == nil {
			return err
		}
	}
	err := r.replace(at, "SIGKILL of a worker")
	r.kills.Add(1)
	return err
}

// busy waits for a worker that runs something, and is nil when ctx ends first.
func (r *coordinator) busy(ctx context.Context, draw *rand.Rand, of []*place) (*place, error) {
	for wait(ctx, 20*time.Millisecond) {
		at := one(draw, of)
		at.mu.Lock()
		runs, err := history.Running(r.Dir, at.process.name)
		at.mu.Unlock()
		if err != nil {
			return nil, err
		}
		if runs > 0 {
			return at, nil
		}
	}
	return nil, nil
}

func (r *coordinator) killOrchestrator(_ context.Context, draw *rand.Rand) error {
	return r.replace(one(draw, r.mortal(r.orchestrators)), "SIGKILL of an orchestrator")
}

func (r *coordinator) replace(at *place, kind string) error {
	at.mu.Lock()
	defer at.mu.Unlock()
	r.kill(at.process)
	r.harmed(kind, at.process.name, 1)
	return r.fill(at)
}

// terminate tells a worker to stop. Its successor is there before it is gone.
func (r *coordinator) terminate(_ context.Context, draw *rand.Rand) error {
	at := one(draw, r.mortal(r.workers))
	at.mu.Lock()
	p := at.process
	p.doomed.Store(true)
	err := p.cmd.Process.Signal(syscall.SIGTERM)
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	r.harmed("SIGTERM of a worker", p.name, 1)
	err = errors.Join(err, r.fill(at))
	at.mu.Unlock()
	// Its grace, the time to write what has ended, and a machine that is busy.
	if ended := p.wait(r.Grace + 20*time.Second); ended != nil && !p.exited() {
		r.violate(history.Liveness, "%s did not end at SIGTERM: %v", p.name, ended)
		_ = p.cmd.Process.Kill()
		<-p.done
	} else if ended != nil && p.cmd.ProcessState.ExitCode() != exitCode { // a handler may have ended it all the same
		r.violate(history.Liveness, "%s did not end well at SIGTERM: %v; its output is in %s.out", p.name, ended, p.name)
	}
	r.journal.Add(history.Record{Step: history.Kill, Process: p.name, Note: history.Exit})
	return err
}

// stop freezes a worker, and sometimes kills it in its sleep.
func (r *coordinator) stop(ctx context.Context, draw *rand.Rand, d time.Duration) error {
	at, asleep := one(draw, r.workers), draw.Float64() < r.Faults.Asleep
	at.mu.Lock()
	defer at.mu.Unlock()
	p := at.process
	switch err := p.cmd.Process.Signal(syscall.SIGSTOP); {
	case errors.Is(err, os.ErrProcessDone):
		return nil
	case err != nil:
		return err
	}
	r.journal.Add(history.Record{Step: history.Stop, Process: p.name})
	kind := "SIGSTOP beyond the TTL"
	asleep = asleep && slices.Contains(r.mortal(r.workers), at)
	if d < r.TTL {
		kind, asleep = "SIGSTOP below half the TTL", false
	}
	r.harmed(kind, p.name, int64(d))
	wait(ctx, d)
	if asleep {
		r.kill(p)
		r.harmed("SIGKILL of a stopped worker", p.name, 1)
		return r.fill(at)
	}
	r.journal.Add(history.Record{Step: history.Resume, Process: p.name})
	return p.cmd.Process.Signal(syscall.SIGCONT)
}
