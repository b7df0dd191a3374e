package main

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
)

// A goal is a line of the table: what a row of scripts/figures is measured for,
// and how good it must be.
type goal struct {
	row    string
	what   string
	bound  bound
	value  float64 // that is at least, or at most, to be reached
	unit   string
	of     string // the row whose median it is a share of
	figure func(*result, round) float64
}

type bound int

const (
	atLeast bound = iota
	atMost
	stated // no goal, but to be known
)

// The units. A share is of something that the goal names.
const (
	share     = "share"
	perSecond = "jobs/s"
	millis    = "ms"
	commits   = "commits"
	byteCount = "bytes"
	perMinute = "queries"
	mbPerS    = "MB/s"
)

var goals = []goal{
	{"drain-1m", "drain of 1,000,000 jobs, of claim-and-delete", atLeast, 0.35, share, "", ratio},
	{"drain-1m", "of claim-and-delete by ctid, the fastest form that we know", stated, 0, share, "", fastRatio},
	{"drain-3m", "drain of 3,000,000: last tenth / first", atLeast, 0.9, share, "", lastToFirst},
	{"drain-3m-snapshot", "the same under a held snapshot", atLeast, 0.9, share, "", lastToFirst},
	{"stream-3m", "the same streaming in", atLeast, 0.9, share, "", lastToFirst},
	{"stream-10m", "10 minutes at 20,000/s, kept 60 s: last minute / first", atLeast, 0.9, share, "", lastToFirst},
	{"stream-10m", "its tables: largest in the last minute / in the fourth", atMost, 1.1, share, "", growth},
	{"groups-each", "1,000,000 jobs in 1,000,000 groups, of ungrouped", atLeast, 0.25, share, "drain-1m", rate},
	{"groups-each-snapshot", "the same under a held snapshot, of without", atLeast, 0.8, share, "groups-each", rate},
	{"groups-1000", "1,000 groups, two processes, of ungrouped", atLeast, 0.1, share, "drain-1m", rate},
	{"groups-1000-snapshot", "the same under a held snapshot, of without", atLeast, 0.8, share, "groups-1000", rate},
	{"group-one", "one group of 100,000", atLeast, 5000, perSecond, "", rate},
	{"backlog", "100,000 blocked jobs in front: first free start", atMost, 5000, millis, "", firstStart},
	{"backlog", "then the 100,000 free ones, of their speed alone", atLeast, 0.8, share, "backlog-alone", startedRate},
	{"disjoint", "two processes with disjoint names, of plain", atLeast, 0.1, share, "drain-1m", rate},
	{"bulk", "bulk enqueue, of COPY", atLeast, 0.4, share, "", ratio},
	{"enqueue", "enqueue one by one, 16 connections, of single-row commits", atLeast, 0.7, share, "", ratio},
	{"latency", "enqueue to start, 50 a second: p50 in single commits", atMost, 6, commits, "", latencyP50},
	{"latency", "p99", atMost, 16, commits, "", latencyP99},
	{"latency-tx", "the same, enqueued in a transaction: p50", atMost, 6, commits, "", latencyP50},
	{"latency-tx", "p99", atMost, 16, commits, "", latencyP99},
	{"delayed", "10,000 jobs due in one second: p99 lateness", atMost, 250, millis, "", lateness},
	{"wal", "WAL of a job's whole life, retention included", atMost, 550, byteCount, "", walBytes},
	{"idle-1", "idle for 60 s, 1 channel", atMost, 60, perMinute, "", queries},
	{"idle-100", "idle for 60 s, 100 channels", atMost, 60, perMinute, "", queries},
	{"channels-1000", "1,000 channels with a job a second each: claim p99", atMost, 5, millis, "", callP99("claim")},
	{"channels-1000", "its looks for work over all channels: p99", stated, 0, millis, "", callP99("look")},
	{"slots-320", "320 slots in 32 processes, handlers of 100 ms: occupied", atLeast, 0.9, share, "", occupancy},
	{"payload-20k", "payloads of 20 kB: drain, of claim-and-delete", stated, 0, share, "", ratio},
	{"payload-20k", "payload bytes drained", stated, 0, mbPerS, "", megabytes},
}

func ratio(_ *result, r round) float64       { return r.Ratio }
func fastRatio(_ *result, r round) float64   { return r.Rate / max(r.FastFloor, 1) }
func rate(_ *result, r round) float64        { return r.Rate }
func startedRate(_ *result, r round) float64 { return r.StartedRate }
func lastToFirst(_ *result, r round) float64 { return r.LastToFirst }
func firstStart(_ *result, r round) float64  { return r.FirstStartMS }
func latencyP50(_ *result, r round) float64  { return r.LatencyCommits.P50 }
func latencyP99(_ *result, r round) float64  { return r.LatencyCommits.P99 }
func lateness(_ *result, r round) float64    { return r.Latency.P99 }
func walBytes(_ *result, r round) float64    { return r.WAL }
func queries(_ *result, r round) float64     { return r.Queries }
func occupancy(_ *result, r round) float64   { return r.Occupancy }

func megabytes(res *result, r round) float64 {
	return r.Rate * float64(res.Options.PayloadBytes) / 1e6
}

func callP99(name string) func(*result, round) float64 {
	return func(_ *result, r round) float64 { return r.Calls[name].P99 }
}

// growth compares the tables at the end with those in the fourth tenth of the
// time, when finished jobs have been deleted for a while.
func growth(res *result, _ round) float64 {
	tenths := make([]float64, 10)
	for i, s := range res.Sizes {
		n := i * 10 / len(res.Sizes)
		tenths[n] = max(tenths[n], s.TotalMB)
	}
	if tenths[3] == 0 {
		return 0
	}
	return tenths[9] / tenths[3]
}

// A spread is a figure over the rounds.
type spread struct{ median, lowest, highest float64 }

func spreadOf(values []float64) spread {
	v := slices.Sorted(slices.Values(values))
	mid := v[len(v)/2]
	if len(v)%2 == 0 {
		mid = (v[len(v)/2-1] + v[len(v)/2]) / 2
	}
	return spread{mid, v[0], v[len(v)-1]}
}

// measured is the goal's figure, false where it was not measured.
func (g goal) measured(results map[string]*result) (spread, bool) {
	res := results[g.row]
	if res == nil {
		return spread{}, false
	}
	base := 1.0
	if g.of != "" {
		of := results[g.of]
		if of == nil {
			return spread{}, false
		}
		base = g.over(of).median
	}
	s := g.over(res)
	return spread{s.median / base, s.lowest / base, s.highest / base}, base > 0 && s.highest > 0
}

func (g goal) over(res *result) spread {
	values := make([]float64, len(res.EachRound))
	for i, r := range res.EachRound {
		values[i] = g.figure(res, r)
	}
	return spreadOf(values)
}

func (g goal) met(s spread) bool {
	if g.bound == atMost {
		return s.median <= g.value
	}
	return s.median >= g.value
}

// print is a value in the goal's unit. A share is rounded against us, so that
// one that misses its goal does not look like it.
func (g goal) print(v float64) string {
	const slack = 1e-9 // of 0.35 * 100
	switch {
	case g.unit == share && g.bound == atMost:
		return fmt.Sprintf("%.2f", math.Ceil(v*100-slack)/100)
	case g.unit == share:
		return fmt.Sprintf("%.2f", math.Floor(v*100+slack)/100)
	}
	switch g.unit {
	case commits:
		return fmt.Sprintf("%.1f", v)
	case millis:
		if v < 100 {
			return fmt.Sprintf("%.1f ms", v)
		}
		return thousands(v) + " ms"
	case perMinute:
		return thousands(v)
	}
	return thousands(v) + " " + g.unit
}

// thousands is a number as people read it.
func thousands(v float64) string {
	text := strconv.Itoa(int(v + 0.5))
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// sortedKeys are a map's, in order.
func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
