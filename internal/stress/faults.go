//go:build unix

package stress

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/bearmq/bearmq/internal/history"
)

// A fault comes at random, whatever else happens: the times between two of a
// kind are those of a Poisson process, and drawn from the seed like everything
// that it does. One of a kind is over before the next comes; those of different
// kinds meet. What it changes it changes back at the end of ctx at the latest.
type fault struct {
	kind string
	mean time.Duration
	do   func(context.Context, *rand.Rand) error
}

func (r *coordinator) faults() []fault {
	f := r.Faults
	all := []fault{
		{"SIGKILL of a worker", f.Kill, r.killWorker},
		{"SIGTERM of a worker", f.Term, r.terminate},
		{"SIGSTOP beyond the TTL", f.Stop, func(ctx context.Context, d *rand.Rand) error { return r.stop(ctx, d, r.TTL+some(d, r.TTL)) }},
		{"SIGSTOP below half the TTL", f.Pause, func(ctx context.Context, d *rand.Rand) error { return r.stop(ctx, d, some(d, r.TTL/2)) }},
		{"SIGKILL of an orchestrator", f.Orchestrator, r.killOrchestrator},
		{"backends terminated", f.Terminate, r.terminateBackends},
	}
	if r.Proxy != nil {
		all = append(all, []fault{
			{"connections cut", f.Cut, r.cut},
			{"connection cut before a reply", f.CutReply, r.cutReply},
			{"connection slow", f.Slow, r.slow},
			{"connection stalled", f.Stall, r.stall},
			{"connection blackholed", f.Blackhole, r.blackhole},
			{"process slow", f.SlowProcess, r.slowProcess},
			{"process stalled", f.StallProcess, r.stallProcess},
			{"process blackholed", f.BlackholeProcess, r.blackholeProcess},
		}...)
	}
	if r.Server != nil {
		all = append(all, []fault{
			{"server restarted, fast", f.RestartFast, r.restartFast},
			{"server restarted, immediate", f.RestartImmediate, r.restartImmediate},
			{"server down", f.Outage, r.outage},
		}...)
	}
	return all
}

// harm starts the faults. They end with ctx.
func (r *coordinator) harm(ctx context.Context) *sync.WaitGroup {
	var all sync.WaitGroup
	for i, f := range r.faults() {
		if f.mean == 0 {
			continue
		}
		all.Go(func() {
			draw := rand.New(rand.NewPCG(r.Seed, uint64(i+1)<<32))
			for wait(ctx, time.Duration(draw.ExpFloat64()*float64(f.mean))) {
				if err := f.do(ctx, draw); err != nil {
					r.fail(fmt.Errorf("%s: %w", f.kind, err))
					return
				}
			}
		})
	}
	return &all
}

// harmed writes a fault down. N is how much of it.
func (r *coordinator) harmed(kind, process string, n int64) {
	r.journal.Add(history.Record{Step: history.Harm, Process: process, Note: kind, N: n})
	r.say("%s %s", kind, process)
}

func some(draw *rand.Rand, d time.Duration) time.Duration {
	return time.Duration(draw.Int64N(int64(d)))
}

func one[T any](draw *rand.Rand, of []T) T { return of[draw.IntN(len(of))] }
