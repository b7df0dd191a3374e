package bench

import (
	"encoding/json"
	"io"
)

// A report is the result of all rounds. Its JSON is stable: fields are added,
// none changes its meaning.
type report struct {
	opts   *options
	rounds []*figures

	Command string  `json:"command"`
	Date    string  `json:"date"` // when it began
	Work    string  `json:"work"`
	Jobs    int     `json:"jobs"`
	Rounds  int     `json:"rounds"`
	Rate    float64 `json:"rate_per_s"`
	Spread  spread  `json:"rate_spread"`
	Floor   float64 `json:"floor_per_s"`
	FloorIs string  `json:"floor"`
	// Ratio is rate / floor; for latency, p50 / a single commit's time.
	Ratio float64 `json:"ratio"`
	// FastFloor is the floor in its fastest form, of drain.
	FastFloor   float64   `json:"fast_floor_per_s,omitempty"`
	FastRatio   float64   `json:"fast_ratio,omitempty"`
	RatioSpread spread    `json:"ratio_spread"`
	Tenths      []float64 `json:"tenths"` // jobs a second
	LastToFirst float64   `json:"last_to_first_tenth"`

	WAL        float64   `json:"wal_bytes_per_job"` // without full-page images
	WALParts   []walPart `json:"wal_parts"`
	WALPartial bool      `json:"wal_is_estimate"`

	Latency        *percentiles `json:"latency_ms"`
	LatencyIs      string       `json:"latency,omitempty"`
	LatencyCommits *percentiles `json:"latency_in_commits"`
	CommitMS       float64      `json:"commit_ms"`
	RoundTripMS    float64      `json:"round_trip_ms"`

	// StartedRate is rate counted from the start of the first job.
	StartedRate  float64 `json:"rate_after_first_start_per_s,omitempty"`
	FirstStartMS float64 `json:"first_start_ms,omitempty"`
	Occupancy    float64 `json:"occupancy,omitempty"`
	Deleted      float64 `json:"deleted_per_s,omitempty"`
	Queries      float64 `json:"queries,omitempty"`
	Transactions float64 `json:"transactions,omitempty"`
	Sizes        []sizes `json:"table_sizes,omitempty"` // of the last round
	// Calls are the engine's, as the workers see them.
	Calls map[string]callTimes `json:"calls_ms,omitempty"`

	EachRound []roundReport `json:"each_round"`

	Check   string            `json:"check"`
	Options map[string]any    `json:"options"`
	Machine machine           `json:"machine"`
	SQL     map[string]string `json:"floor_sql"`
}

var latencyIs = map[string]string{
	"bulk":    "time of a call with up to 10,000 jobs",
	"enqueue": "time of a call",
	"stream":  "from before the enqueue to the handler's start",
	"latency": "from before the enqueue to the handler's start",
	"delayed": "from when a job was due to its handler's start",
}

// summarize makes the medians.
func (r *report) summarize() {
	o := r.opts
	r.Work, r.Jobs, r.Rounds, r.FloorIs = o.work.name, o.jobs, len(r.rounds), o.work.floorIs
	over := func(figure func(*figures) float64) spread {
		values := make([]float64, len(r.rounds))
		for i, f := range r.rounds {
			values[i] = figure(f)
		}
		return spreadOf(values)
	}
	median := func(figure func(*figures) float64) float64 { return over(figure).Median }
	last := r.rounds[len(r.rounds)-1]

	r.Spread = over(func(f *figures) float64 { return f.Rate })
	r.Rate = r.Spread.Median
	for i := range last.Tenths {
		r.Tenths = append(r.Tenths, median(func(f *figures) float64 { return f.Tenths[i] }))
	}
	r.LastToFirst = median((*figures).lastToFirst)
	r.CommitMS = median(func(f *figures) float64 { return f.Commit.Seconds() * 1e3 })
	r.RoundTripMS = median(func(f *figures) float64 { return f.RoundTrip.Seconds() * 1e3 })
	if o.work.name == "idle" {
		for _, f := range r.rounds {
			f.Floor = 1 / f.RoundTrip.Seconds()
		}
	}
	r.Floor = median(func(f *figures) float64 { return f.Floor })
	r.RatioSpread = over((*figures).ratio)
	if last.FastFloor > 0 {
		r.FastFloor = median(func(f *figures) float64 { return f.FastFloor })
		r.FastRatio = median(func(f *figures) float64 { return f.Rate / f.FastFloor })
	}

	if last.Latency != nil {
		r.Latency = &percentiles{
			median(func(f *figures) float64 { return f.Latency.P50 }),
			median(func(f *figures) float64 { return f.Latency.P95 }),
			median(func(f *figures) float64 { return f.Latency.P99 }),
		}
		r.LatencyIs = latencyIs[o.work.name]
		if o.delayed {
			r.LatencyIs = latencyIs["delayed"]
		}
		r.LatencyCommits = &percentiles{r.Latency.P50 / r.CommitMS, r.Latency.P95 / r.CommitMS, r.Latency.P99 / r.CommitMS}
	}
	if o.work.name == "latency" {
		r.RatioSpread = over(func(f *figures) float64 { return f.Latency.P50 / (f.Commit.Seconds() * 1e3) })
	}
	r.Ratio = r.RatioSpread.Median

	for i, p := range last.WAL {
		p.BytesJob = median(func(f *figures) float64 { return f.WAL[i].BytesJob })
		r.WALParts = append(r.WALParts, p)
		r.WALPartial = r.WALPartial || p.How == byEstimate
	}
	r.WAL = median((*figures).walBytes)
	r.Calls = medianCalls(r.rounds)
	for _, f := range r.rounds {
		r.EachRound = append(r.EachRound, f.report())
	}
	r.StartedRate = median(func(f *figures) float64 { return f.StartedRate })
	r.FirstStartMS = median(func(f *figures) float64 { return f.FirstStart.Seconds() * 1e3 })
	r.Occupancy = median(func(f *figures) float64 { return f.Occupancy })
	r.Deleted = median(func(f *figures) float64 { return f.Deleted })
	r.Queries = median(func(f *figures) float64 { return float64(f.Queries) })
	r.Transactions = median(func(f *figures) float64 { return float64(f.Transactions) })
	r.Sizes = last.Sizes
	r.Check = "every job ran exactly once"
	switch {
	case o.work.name == "bulk" || o.work.name == "enqueue":
		r.Check = last.Check
	case last.Check != "":
		r.Check += "; " + last.Check
	}
	r.Options = o.asMap()
	r.SQL = map[string]string{}
	for _, name := range o.work.floorSQL {
		r.SQL[name] = sql(name)
	}
}

func (r *report) write(w io.Writer, asJSON bool) error {
	if !asJSON {
		return r.table(w)
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(r)
}

// asMap is the options as they were given or defaulted.
func (o *options) asMap() map[string]any {
	m := map[string]any{
		"jobs": o.jobs, "payload_bytes": o.payloadBytes, "groups": o.groups, "connections": o.connections, "processes": o.processes,
		"channels": o.channels, "backlog": o.backlog, "rounds": o.rounds, "hold_snapshot": o.holdSnapshot, "disjoint": o.disjoint,
		"delayed": o.delayed, "in_tx": o.inTx, "rate": o.rate, "duration": o.duration.String(), "handler": o.handler.String(),
		"slots": o.slots,
	}
	if o.retention != keepDefault {
		m["retention"] = o.retention.String()
	}
	return m
}
