//go:build fault && unix

package fault

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq"
)

var clockRows = []row{
	{36, "the database's clock jumps", false, clockJumps},
	{37, "the applications have another clock", false, otherClock},
}

// clockVariable names the file that holds what the servers' clock is ahead. It is
// set in a test process whose servers have such a clock.
const clockVariable = "FAKETIME_TIMESTAMP_FILE"

// withClock runs a row again, in a test process of its own: its PostgreSQL has a
// clock that can be set (libfaketime). It does not touch Go programs, which ask
// the kernel without the C library.
func withClock(t *testing.T, run func(t *testing.T, set func(ahead time.Duration))) {
	if file := os.Getenv(clockVariable); file != "" {
		run(t, func(ahead time.Duration) {
			// In one piece: the server may read at any moment.
			require.NoError(t, os.WriteFile(file+".new", fmt.Appendf(nil, "%+d\n", int(ahead.Seconds())), 0o644))
			require.NoError(t, os.Rename(file+".new", file))
		})
		return
	}
	var library string
	for _, pattern := range []string{"/usr/lib/*/faketime/libfaketime.so.1", "/usr/lib*/faketime/libfaketime.so.1", "/usr/local/lib/faketime/libfaketime.so.1"} {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			library = found[0]
		}
	}
	require.NotEmpty(t, library, "this row needs libfaketime to change PostgreSQL's clock: install the package libfaketime (apt-get install libfaketime)")
	dir, err := os.MkdirTemp("", "bearmq-clock-") // not below t.TempDir, which the server's user cannot enter
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o755))
	file := filepath.Join(dir, "ahead")
	require.NoError(t, os.WriteFile(file, []byte("+0\n"), 0o644))
	binary, err := os.Executable()
	require.NoError(t, err)
	_, name, _ := strings.Cut(t.Name(), "/")
	cmd := exec.CommandContext(t.Context(), binary, "-test.run", "^TestFault$/^"+name[:2]+"_", "-test.v", "-test.timeout", "5m")
	cmd.Env = append(os.Environ(), "LD_PRELOAD="+library, clockVariable+"="+file, "FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1", "DATABASE_URL=")
	output, err := cmd.CombinedOutput()
	for line := range strings.Lines(string(output)) {
		if err != nil || strings.Contains(line, "_test.go:") {
			t.Log(strings.TrimSpace(line))
		}
	}
	require.NoError(t, err, "the row with a clock of its own has failed")
	require.Contains(t, string(output), "--- PASS: TestFault/"+name[:2], "it has run")
}

// ahead is by how much the server's clock is ahead of this machine's.
func (s *scenario) ahead() time.Duration {
	s.Helper()
	return time.Until(value[time.Time](s, `SELECT clock_timestamp()`)).Round(time.Second)
}

// Row 36. The database's clock jumps by an hour, and then back by two. No worker
// loses its jobs for it; nothing that is delayed runs before the database's time
// has come; and no slot of a schedule makes two jobs.
func clockJumps(t *testing.T) {
	withClock(t, func(t *testing.T, set func(time.Duration)) {
		s := beginAlone(t, nil)
		s.clockOff = true
		s.inside("orchestrator", orchestrator, ticks)
		s.spawn("A", worker, ticks)
		s.inside("B", worker, ticks)
		later := s.enqueue(task{}, bearmq.Delay(90*time.Minute))
		for _, jump := range []time.Duration{time.Hour, -time.Hour} { // from now, and from the hour ahead
			var jobs []int
			for i := range 10 {
				jobs = append(jobs, s.enqueue(task{Do: "sleep", For: 2 * ttl, Group: []string{"", fmt.Sprint("g", i)}[i%2]}))
			}
			for _, n := range jobs {
				s.await(patience, "it runs", is(started), of(n))
			}
			made := len(s.slots())
			set(jump)
			s.within(patience, "the clock has jumped", func() bool { return s.ahead() == jump })
			for _, n := range jobs {
				s.await(patience, "it ends", is(ended), of(n))
			}
			s.Logf("after a jump to %+v: %d leases lost, %d jobs recovered, %d slots made", jump, len(s.find(told("WORKER_LEASE_LOST"))),
				len(s.find(told("ORCHESTRATOR_JOB_RECOVER"))), len(s.slots())-made)
			for _, n := range jobs {
				assert.Len(s, s.runs(n), 1, "no takeover")
			}
			assert.Empty(s, s.runs(later), "it is not due yet")
		}
		assert.Empty(s, s.find(told("WORKER_LEASE_LOST")))
		assert.Empty(s, s.find(told("ORCHESTRATOR_JOB_RECOVER")))
		s.exec(`UPDATE bearmq.ticket SET run_at = clock_timestamp()`)
		s.await(patience, "it runs when it is due", is(started), of(later))
		s.noMoreTicks()
		s.settled()
		slots := s.slots()
		seen := map[int64]bool{}
		for _, slot := range slots {
			assert.False(s, seen[slot.Unix()], "slot %v has made two jobs", slot)
			seen[slot.Unix()] = true
		}
	})
}

// Row 37. Where the applications' clock is an hour behind the database's, or
// ahead of it, nothing is different. As a Go program takes the time from the
// kernel, it is the server's clock that is set, before anything starts.
func otherClock(t *testing.T) {
	withClock(t, func(t *testing.T, set func(time.Duration)) {
		for _, ahead := range []time.Duration{time.Hour, -time.Hour} {
			t.Run(ahead.String(), func(t *testing.T) {
				set(ahead)
				s := beginAlone(t, nil)
				s.clockOff = true
				require.Equal(s, ahead, s.ahead())
				s.inside("orchestrator", orchestrator, ticks)
				a := s.spawn("A", worker, func(r *role) { r.Channels = []string{"default"} })
				held := s.enqueue(task{Do: "hold once", For: time.Minute, Group: "g"})
				s.await(patience, "A has it", is(started), of(held), by("A"))
				s.inside("B", worker, ticks)
				// Delays are the database's.
				at := time.Now()
				delay := s.await(patience, "it starts", is(started), of(s.enqueue(task{}, bearmq.Delay(2*time.Second)))).At.Sub(at)
				assert.InDelta(s, 2, delay.Seconds(), 1)
				// So are retries, and timeouts end when they should.
				at = time.Now()
				again := s.enqueue(task{Do: "snooze once"}, bearmq.Attempts(2))
				s.within(patience, "it runs twice", func() bool { return len(s.find(is(ended), of(again))) == 2 })
				assert.Less(s, time.Since(at), 2*time.Second)
				assert.Less(s, s.pickup(), poll+tolerance)
				// And recovery.
				at = a.kill()
				taken := s.await(2*recovery, "B has it", is(started), of(held), by("B")).At.Sub(at)
				assert.LessOrEqual(s, taken, recovery)
				assert.Empty(s, s.find(told("WORKER_LEASE_LOST")))
				s.within(patience, "slots are made", func() bool { return len(s.slots()) > 3 })
				s.noMoreTicks()
				s.settled()
				s.oneEach(1)
				s.Logf("the server is ahead by %v: a delay of 2 s took %s, recovery %s", ahead, seconds(delay), seconds(taken))
				assert.Equal(s, 1, s.tally(held).Losses)
			})
		}
	})
}
