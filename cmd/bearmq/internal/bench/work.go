package bench

import (
	"context"
	"time"
)

// A work is something that is measured.
type work struct {
	name, what string
	defaults   func(*options)
	// run measures BearMQ once. It fills in the round's figures.
	run func(context.Context, *round) error
	// floor measures the raw floor of the same once, in units a second.
	floor func(context.Context, *bench) (float64, error)
	// floorIs says what the floor is, and floorSQL names the files of sql/.
	floorIs  string
	floorSQL []string
}

var works = []*work{
	{
		name: "bulk", what: "enqueue many jobs a call, 10,000 at a time",
		defaults: func(*options) {}, run: runBulk, floor: floorCopy,
		floorIs: "COPY of the same rows, 10,000 a transaction, on the same connections", floorSQL: []string{"floor_table", "floor_copy"},
	},
	{
		name: "enqueue", what: "enqueue jobs one by one, on 16 connections",
		defaults: func(o *options) { o.jobs, o.connections = 30_000, 16 }, run: runEnqueue, floor: floorCommits,
		floorIs: "single-row commits on the same connections", floorSQL: []string{"floor_table", "floor_insert"},
	},
	{
		name: "drain", what: "run jobs that are there already (the default)",
		defaults: func(*options) {}, run: runDrain, floor: floorClaim,
		floorIs: "claim and delete 1,000 rows a statement, on two connections", floorSQL: []string{"floor_table", "floor_claim", "floor_claim_ctid"},
	},
	{
		name: "stream", what: "run jobs while others come in at --rate, for --duration",
		defaults: func(o *options) { o.rate, o.duration, o.rounds, o.connections = 20_000, time.Minute, 1, 4 },
		run:      runStream, floor: floorClaim,
		floorIs: "claim and delete 1,000 rows a statement, on two connections, of up to 500,000 rows that are there already", floorSQL: []string{"floor_table", "floor_claim"},
	},
	{
		name: "latency", what: "from before an enqueue to the start of its handler in another process",
		defaults: func(o *options) { o.jobs, o.rate = 1000, 50 }, run: runLatency,
		floorIs: "single-row commits, one between any two enqueues (--delayed: one after another)", floorSQL: []string{"floor_table", "floor_insert"},
	},
	{
		name: "idle", what: "queries in --duration of a worker and an orchestrator that have nothing to do",
		defaults: func(o *options) { o.duration, o.rounds, o.jobs = time.Minute, 1, 10 }, run: runIdle,
		floorIs: "empty round trips, one after another", floorSQL: []string{"floor_empty"},
	},
}
