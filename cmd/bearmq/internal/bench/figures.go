package bench

import (
	"slices"
	"time"
)

// figures are what one round has measured.
type figures struct {
	Jobs         int
	Rate         float64 // a second
	StartedRate  float64 // the same from the start of the first job
	Tenths       []float64
	Floor        float64 // a second
	FastFloor    float64 // the same in its fastest form, where there is one
	Commit       time.Duration
	RoundTrip    time.Duration
	Latency      *percentiles
	WAL          []walPart
	FirstStart   time.Duration // of the first job, after the workers were started
	Occupancy    float64       // of the slots, 0: not asked for
	Deleted      float64       // jobs a second
	Queries      int
	Transactions int
	Sizes        []sizes
	Calls        map[string]callTimes // of the workers
	Check        string
}

// rate notes how fast n jobs were done.
func (f *figures) rate(n int, began, ended time.Time) {
	f.Jobs, f.Rate = n, float64(n)/ended.Sub(began).Seconds()
}

// ran notes what the workers did.
func (f *figures) ran(r *round, began, ended time.Time) {
	f.rate(r.opts.jobs, began, ended)
	first := time.Unix(0, r.crew.first)
	f.FirstStart = first.Sub(began)
	f.StartedRate = float64(r.opts.jobs) / ended.Sub(first).Seconds()
	f.Calls = callTimesOf(r.crew.calls)
	if r.opts.handler > 0 && r.opts.slots > 0 {
		slots := float64(r.opts.slots * r.opts.processes)
		f.Occupancy = float64(r.opts.jobs) * r.opts.handler.Seconds() / (slots * ended.Sub(began).Seconds())
	}
}

func (f *figures) latency(took []time.Duration) {
	if len(took) > 0 {
		p := percentilesOf(took)
		f.Latency = &p
	}
}

// commits takes the single commits measured between the enqueues for the floor.
func (f *figures) commits(took []time.Duration) {
	slices.Sort(took)
	f.Commit = took[len(took)/2]
	f.Floor = 1 / f.Commit.Seconds()
}

// ratio is the rate in units of the floor.
func (f *figures) ratio() float64 {
	if f.Floor == 0 {
		return 0
	}
	return f.Rate / f.Floor
}

func (f *figures) walBytes() (sum float64) {
	for _, p := range f.WAL {
		sum += p.BytesJob
	}
	return sum
}

// latencyCommits is the latency in single commits' times.
func (f *figures) latencyCommits() *percentiles {
	if f.Latency == nil || f.Commit == 0 {
		return nil
	}
	commit := f.Commit.Seconds() * 1e3
	return &percentiles{f.Latency.P50 / commit, f.Latency.P95 / commit, f.Latency.P99 / commit}
}

// lastToFirst compares the ends of the run.
func (f *figures) lastToFirst() float64 {
	if len(f.Tenths) < 10 || f.Tenths[0] == 0 {
		return 0
	}
	return f.Tenths[9] / f.Tenths[0]
}

// percentiles are in milliseconds.
type percentiles struct {
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
	P99 float64 `json:"p99"`
}

func percentilesOf(took []time.Duration) percentiles {
	took = slices.Sorted(slices.Values(took))
	at := func(share float64) float64 {
		i := min(int(share*float64(len(took))), len(took)-1)
		return float64(took[i]) / float64(time.Millisecond)
	}
	return percentiles{at(0.50), at(0.95), at(0.99)}
}

// A spread is a figure over several rounds.
type spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

func spreadOf(values []float64) spread {
	v := slices.Sorted(slices.Values(values))
	mid := v[len(v)/2]
	if len(v)%2 == 0 {
		mid = (v[len(v)/2-1] + v[len(v)/2]) / 2
	}
	return spread{mid, v[0], v[len(v)-1]}
}
