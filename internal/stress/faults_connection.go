//go:build unix

package stress

import (
	"context"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/bearmq/bearmq/internal/proxy"
)

// terminateBackends ends some connections of the producers, workers and
// orchestrators from the server's side.
func (r *coordinator) terminateBackends(ctx context.Context, draw *rand.Rand) error {
	var n int64
	err := r.pool.QueryRow(ctx, `SELECT count(pg_terminate_backend(pid)) FROM (
		SELECT pid FROM pg_stat_activity WHERE application_name LIKE $1 ORDER BY random() LIMIT $2) a`,
		r.application("%"), 1+draw.IntN(3)).Scan(&n)
	if err == nil && n > 0 {
		r.harmed("backends terminated", "", n)
	}
	return nil // the server may be down
}

func (r *coordinator) ours(c *proxy.Conn) bool { return strings.HasPrefix(c.App(), r.application("")) }

// conns are some of the connections, up to n.
func (r *coordinator) conns(draw *rand.Rand, n int) []*proxy.Conn {
	all := r.Proxy.Conns(r.ours)
	draw.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:min(n, len(all))]
}

func (r *coordinator) cut(_ context.Context, draw *rand.Rand) error {
	if n := r.Proxy.Cut(proxy.Only(r.conns(draw, 1+draw.IntN(3))...)); n > 0 {
		r.harmed("connections cut", "", int64(n))
	}
	return nil
}

// cutReply lets one call be done of which its caller never hears.
func (r *coordinator) cutReply(ctx context.Context, draw *rand.Rand) error {
	of := one(draw, []string{"", "finish_v1", "finish_v1", "claim_log_v1", "claim_due_v1", "complete_tx_v1", "completing_v1", "renew_session_v1", "recover_v1", "find_work_v1", ".job "})
	statement := proxy.Containing(of)
	if of == "" {
		of, statement = "COMMIT", proxy.Commit
	}
	f := r.Proxy.CutReply(r.ours, statement)
	defer f.Lift()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	select {
	case <-f.Done():
		r.harmed("connection cut before a reply", strings.TrimSpace(of), 1)
	case <-ctx.Done():
	}
	return nil
}

// during harms what a fault of the proxy has picked for some time.
func (r *coordinator) during(ctx context.Context, kind, process string, d time.Duration, f *proxy.Fault) error {
	r.harmed(kind, process, int64(d))
	wait(ctx, d)
	f.Lift()
	return nil
}

func (r *coordinator) slow(ctx context.Context, draw *rand.Rand) error {
	c, d := r.conns(draw, 1), some(draw, 2*r.TTL)
	if len(c) == 0 {
		return nil
	}
	return r.during(ctx, "connection slow", c[0].App(), d, r.Proxy.Delay(proxy.Only(c...), some(draw, r.TTL/6), r.TTL/10))
}

func (r *coordinator) stall(ctx context.Context, draw *rand.Rand) error {
	c, d := r.conns(draw, 1), some(draw, 2*r.TTL)
	if len(c) == 0 {
		return nil
	}
	return r.during(ctx, "connection stalled", c[0].App(), d, r.Proxy.Stall(proxy.Only(c...)))
}

func (r *coordinator) blackhole(ctx context.Context, draw *rand.Rand) error {
	c, d := r.conns(draw, 1), some(draw, 3*r.TTL)
	if len(c) == 0 {
		return nil
	}
	return r.during(ctx, "connection blackholed", c[0].App(), d, r.Proxy.Blackhole(proxy.Only(c...)))
}

// oneOf picks all connections of one process, and those that it opens.
func (r *coordinator) oneOf(draw *rand.Rand, at []*place) (name string, who proxy.Match) {
	p := one(draw, at)
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.process.name, proxy.App(r.application(p.process.name))
}

func (r *coordinator) slowProcess(ctx context.Context, draw *rand.Rand) error {
	name, who := r.oneOf(draw, r.places())
	return r.during(ctx, "process slow", name, some(draw, 3*r.TTL), r.Proxy.Delay(who, some(draw, r.TTL/6), r.TTL/10))
}

func (r *coordinator) stallProcess(ctx context.Context, draw *rand.Rand) error {
	name, who := r.oneOf(draw, r.places())
	return r.during(ctx, "process stalled", name, some(draw, 3*r.TTL), r.Proxy.Stall(who))
}

// blackholeProcess lasts until the session of the worker, which runs something,
// has ended, and longer.
func (r *coordinator) blackholeProcess(ctx context.Context, draw *rand.Rand) error {
	at, err := r.busy(ctx, draw, r.workers)
	if at == nil {
		return err
	}
	name, who := r.oneOf(draw, []*place{at})
	return r.during(ctx, "process blackholed", name, 2*r.TTL+some(draw, r.TTL), r.Proxy.Blackhole(who))
}
