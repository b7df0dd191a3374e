package bench

import (
	"context"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// calls are the times of the engine's calls, as its caller sees them: from
// when the statement was sent until its last row was read. They hold all calls,
// whether they found anything or not. It is the tracer of a worker's pool.
type calls struct {
	mu   sync.Mutex
	took map[string][]time.Duration
}

// callName finds the engine's function in a statement.
var callName = regexp.MustCompile(`(claim_log|claim_due|find_work|finish)_v\d+\(`)

var callIs = map[string]string{"claim_log": "claim", "claim_due": "claim", "find_work": "look", "finish": "finish"}

type callKey struct{}

type startedCall struct {
	name string
	at   time.Time
}

func (c *calls) TraceQueryStart(ctx context.Context, _ *pgx.Conn, q pgx.TraceQueryStartData) context.Context {
	m := callName.FindStringSubmatch(q.SQL)
	if m == nil {
		return ctx
	}
	return context.WithValue(ctx, callKey{}, startedCall{callIs[m[1]], time.Now()})
}

func (c *calls) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, q pgx.TraceQueryEndData) {
	call, ok := ctx.Value(callKey{}).(startedCall)
	if !ok || q.Err != nil {
		return
	}
	took := time.Since(call.at)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.took == nil {
		c.took = map[string][]time.Duration{}
	}
	c.took[call.name] = append(c.took[call.name], took)
}

// all are the times so far.
func (c *calls) all() map[string][]time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := map[string][]time.Duration{}
	for name, took := range c.took {
		all[name] = slices.Clone(took)
	}
	return all
}

// callTimes are those of all calls of one kind, in milliseconds.
type callTimes struct {
	Calls int `json:"calls"`
	percentiles
	Max float64 `json:"max"`
}

func callTimesOf(took map[string][]time.Duration) map[string]callTimes {
	times := map[string]callTimes{}
	for name, t := range took {
		times[name] = callTimes{len(t), percentilesOf(t), float64(slices.Max(t)) / float64(time.Millisecond)}
	}
	return times
}
