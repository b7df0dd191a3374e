//go:build unix

package stress

import (
	"context"
	"math/rand/v2"
	"syscall"
	"time"

	"github.com/bearmq/bearmq/internal/history"
)

func (r *coordinator) restartFast(ctx context.Context, _ *rand.Rand) error {
	r.server.Lock()
	defer r.server.Unlock()
	r.harmed("server restarted, fast", "", 1)
	return r.Server.Restart(context.WithoutCancel(ctx))
}

// restartImmediate is pg_ctl restart -m immediate: the server stops without
// writing anything more, and recovers when it starts. Half of them are a kill -9
// of the server and all its backends.
func (r *coordinator) restartImmediate(ctx context.Context, draw *rand.Rand) error {
	r.server.Lock()
	defer r.server.Unlock()
	if draw.IntN(2) == 0 {
		if err := r.Server.Crash(); err != nil {
			return err
		}
		r.harmed("server killed, restarted", "", 1)
	} else {
		if err := syscall.Kill(r.Server.PID(), syscall.SIGQUIT); err != nil {
			return err
		}
		for r.Server.PID() != 0 {
			wait(context.Background(), 5*time.Millisecond)
		}
		r.harmed("server restarted, immediate", "", 1)
	}
	r.journal.Add(history.Record{Step: history.Crash})
	return r.Server.Start(context.WithoutCancel(ctx))
}

func (r *coordinator) outage(ctx context.Context, draw *rand.Rand) error {
	d := r.TTL/2 + some(draw, r.TTL)
	r.server.Lock()
	defer r.server.Unlock()
	if err := r.Server.Stop(); err != nil {
		return err
	}
	r.harmed("server down", "", int64(d))
	wait(ctx, d)
	return r.Server.Start(context.WithoutCancel(ctx))
}
