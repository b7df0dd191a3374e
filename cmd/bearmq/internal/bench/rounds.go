package bench

// A roundReport is what one round has measured, as the report says it of all.
type roundReport struct {
	Rate           float64              `json:"rate_per_s"`
	StartedRate    float64              `json:"rate_after_first_start_per_s,omitempty"`
	Floor          float64              `json:"floor_per_s"`
	FastFloor      float64              `json:"fast_floor_per_s,omitempty"`
	Ratio          float64              `json:"ratio"` // rate / floor
	Tenths         []float64            `json:"tenths"`
	LastToFirst    float64              `json:"last_to_first_tenth"`
	WAL            float64              `json:"wal_bytes_per_job"`
	Latency        *percentiles         `json:"latency_ms"`
	LatencyCommits *percentiles         `json:"latency_in_commits"`
	CommitMS       float64              `json:"commit_ms"`
	RoundTripMS    float64              `json:"round_trip_ms"`
	FirstStartMS   float64              `json:"first_start_ms,omitempty"`
	Occupancy      float64              `json:"occupancy,omitempty"`
	Deleted        float64              `json:"deleted_per_s,omitempty"`
	Queries        int                  `json:"queries,omitempty"`
	Calls          map[string]callTimes `json:"calls_ms,omitempty"`
}

func (f *figures) report() roundReport {
	return roundReport{
		Rate: f.Rate, StartedRate: f.StartedRate, Floor: f.Floor, FastFloor: f.FastFloor, Ratio: f.ratio(),
		Tenths: f.Tenths, LastToFirst: f.lastToFirst(), WAL: f.walBytes(),
		Latency: f.Latency, LatencyCommits: f.latencyCommits(),
		CommitMS: f.Commit.Seconds() * 1e3, RoundTripMS: f.RoundTrip.Seconds() * 1e3,
		FirstStartMS: f.FirstStart.Seconds() * 1e3, Occupancy: f.Occupancy, Deleted: f.Deleted, Queries: f.Queries, Calls: f.Calls,
	}
}

// medianCalls are the medians of the rounds' percentiles.
func medianCalls(rounds []*figures) map[string]callTimes {
	all := map[string]callTimes{}
	for name := range rounds[len(rounds)-1].Calls {
		over := func(figure func(callTimes) float64) float64 {
			values := make([]float64, len(rounds))
			for i, f := range rounds {
				values[i] = figure(f.Calls[name])
			}
			return spreadOf(values).Median
		}
		all[name] = callTimes{
			Calls: int(over(func(t callTimes) float64 { return float64(t.Calls) })),
			percentiles: percentiles{
				over(func(t callTimes) float64 { return t.P50 }),
				over(func(t callTimes) float64 { return t.P95 }),
				over(func(t callTimes) float64 { return t.P99 }),
			},
			Max: over(func(t callTimes) float64 { return t.Max }),
		}
	}
	return all
}
