//go:build fault && unix

package fault

import (
	"context"
	"runtime/pprof"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestOracle holds a scenario that went well against histories that did not:
// each thing that the oracle asks is seen to fail.
func TestOracle(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		tamper func(s *scenario, a, b record) // a and b are the starts of two jobs of a group, in their order
		says   string
	}{
		"nothing":             {func(*scenario, record, record) {}, ""},
		"a job that is lost":  {func(s *scenario, _, _ record) { s.ack(1 << 40) }, "was acknowledged and has no outcome"},
		"a job that is twice": {func(s *scenario, _, _ record) { s.exec(`UPDATE bearmq.job SET payload = '{"N":1}'`) }, "is a double of job"},
		"a job that failed":   {func(s *scenario, _, _ record) { s.exec(`UPDATE bearmq.outcome SET state = 'f'`) }, "has failed"},
		"a call without a reason": {func(s *scenario, a, _ record) {
			a.Run, a.Step = 100, started
			s.own.add(a)
		}, "nothing on record between them"},
		"a call after the end": {func(s *scenario, a, _ record) {
			s.exec(`INSERT INTO bearmq.fault_given VALUES ($1, clock_timestamp(), 1)`, a.Job)
			a.Run, a.Step = 100, started
			s.own.add(a)
		}, "after its end"},
		"an overlap": {func(s *scenario, a, b record) {
			// One that has not ended, and another of its group.
			a.Run, a.Step = 100, started
			s.own.add(a)
			b.Run, b.Step = 101, started
			s.own.add(b)
		}, "group g: job"},
		"a token that falls": {func(s *scenario, _, b record) {
			b.Run, b.Step, b.Token = 100, started, 1
			s.own.add(b)
		}, "has token 1"},
		"a second event": {func(s *scenario, a, _ record) {
			s.own.add(record{Step: event, Kind: "WORKER_JOB_RUN_SUCCESS", Job: a.Job})
		}, "events that say it is over"},
		"an event of another end": {func(s *scenario, a, _ record) {
			s.failing = true
			s.exec(`UPDATE bearmq.outcome SET state = 'f' WHERE job_id = $1`, a.Job)
		}, "has the outcome f and the event WORKER_JOB_RUN_SUCCESS"},
		"no event": {func(s *scenario, _, _ record) {
			s.exec(`INSERT INTO bearmq.job (name, lane, payload, xid) SELECT name, lane, payload, NULL FROM bearmq.job LIMIT 1`)
			s.exec(`INSERT INTO bearmq.outcome (job_id, claim, attempt, state) SELECT max(id), 0, 1, 'c' FROM bearmq.job`)
		}, "no event says so"},
		"a connection that is left": {func(s *scenario, _, _ record) {
			pool, err := s.role("late", nil).connect(s.Context())
			require.NoError(s, err)
			s.Cleanup(pool.Close)
			require.NoError(s, pool.Ping(s.Context()))
		}, "1 connections are left"},
		"a goroutine that is left": {func(s *scenario, _, _ record) {
			over := make(chan struct{})
			s.Cleanup(func() { close(over) })
			pprof.Do(context.Background(), pprof.Labels("fault", s.dir), func(context.Context) { go func() { <-over }() })
		}, "goroutines are left"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := begin(t)
			s.inside("worker", worker, orchestrator)
			first := s.enqueue(task{Group: "g"})
			second := s.enqueue(task{Group: "g"})
			s.settled()
			var found []string
			s.suspect, s.leaving = &found, 200*time.Millisecond
			c.tamper(s, s.runs(first)[0], s.runs(second)[0])
			s.judge()
			s.nothingLeft()
			if c.says == "" {
				require.Empty(t, found)
				return
			}
			require.True(t, slices.ContainsFunc(found, func(text string) bool { return strings.Contains(text, c.says) }), "%q in %q", c.says, found)
		})
	}
}
