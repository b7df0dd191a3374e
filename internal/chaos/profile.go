//go:build unix

package main

import (
	"time"

	"github.com/bearmq/bearmq/internal/stress"
)

// jobsPerSecond is what two processors do beside the faults.
const jobsPerSecond = 120

// config is the test profile: a TTL of 3 s, and everything else once a second.
func (o options) config() stress.Config {
	c := stress.Config{
		Schema: "chaos", Seed: o.seed,
		Jobs: int(jobsPerSecond * o.duration.Seconds()), Producers: 4, Workers: 4, Orchestrators: 2,
		Over: o.duration, Wave: 2 * time.Second,
		TTL: 3 * time.Second, Sweep: time.Second, Poll: time.Second, Grace: 3 * time.Second, Quiet: 30 * time.Second,
	}
	switch {
	case o.kills > 0:
		return o.onlyKills(c)
	case o.soak != "":
		return o.soaking(c)
	}
	c.Load = stress.Load{
		Channels: []string{"one", "two", "three"}, Groups: 10_000, Grouped: 0.6, Hot: 0.2, Behind: 300,
		// From nothing to two TTLs: one job in a hundred takes longer than one
		// TTL; in the hot group, which must keep up, one in a thousand.
		Task: 2 * c.TTL, Tail: 100, HotTail: 800,
		Fail: 0.05, Panic: 0.01, Exit: 0.001, Snooze: 0.01, Complete: 0.1, Delay: 0.1, Strict: 0.3, Deaf: 0.3, Repeat: true,
	}
	c.Faults = stress.Faults{
		Kill: 10 * time.Second, Term: 12 * time.Second, Stop: 15 * time.Second, Asleep: 0.2, Pause: 10 * time.Second, Orchestrator: 15 * time.Second,
		Terminate: 3 * time.Second, Cut: 4 * time.Second, CutReply: 2 * time.Second,
		Slow: 8 * time.Second, Stall: 8 * time.Second, Blackhole: 10 * time.Second,
		SlowProcess: 25 * time.Second, StallProcess: 25 * time.Second, BlackholeProcess: 25 * time.Second,
		RestartFast: 40 * time.Second, RestartImmediate: 40 * time.Second, Outage: 40 * time.Second,
	}
	return c
}

// onlyKills is for the time to recover: each worker has some jobs that take a
// while, and nothing but the kills delays them.
func (o options) onlyKills(c stress.Config) stress.Config {
	const between = 2 * time.Second
	c.Over, c.Wave = time.Duration(o.kills)*between, 0
	c.Jobs = int(40 * c.Over.Seconds())
	c.Load = stress.Load{Channels: []string{"one"}, Groups: 10_000, Grouped: 0.5, Most: 3, Task: 500 * time.Millisecond, Even: true}
	c.Faults = stress.Faults{Kill: between, Kills: o.kills}
	c.Restart = bound(c)
	return c
}
