package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// A result is what bearmq bench said of one row, in its JSON.
type result struct {
	Command   string  `json:"command"`
	Date      string  `json:"date"` // RFC 3339
	Machine   machine `json:"machine"`
	Options   options `json:"options"`
	EachRound []round `json:"each_round"`
	Tenths    []float64
	Sizes     []sizes `json:"table_sizes"`
}

type machine struct {
	Cores      int
	CPU        string
	System     string
	Go         string
	PostgreSQL string
	Server     string
	Settings   map[string]string
}

type options struct {
	PayloadBytes int `json:"payload_bytes"`
}

type round struct {
	Rate           float64          `json:"rate_per_s"`
	StartedRate    float64          `json:"rate_after_first_start_per_s"`
	FastFloor      float64          `json:"fast_floor_per_s"`
	Ratio          float64          `json:"ratio"` // to the floor
	LastToFirst    float64          `json:"last_to_first_tenth"`
	WAL            float64          `json:"wal_bytes_per_job"`
	Latency        percentiles      `json:"latency_ms"`
	LatencyCommits percentiles      `json:"latency_in_commits"`
	FirstStartMS   float64          `json:"first_start_ms"`
	Occupancy      float64          `json:"occupancy"`
	Queries        float64          `json:"queries"`
	Calls          map[string]calls `json:"calls_ms"`
}

type percentiles struct{ P50, P95, P99 float64 }

// calls are the times of the engine's calls of one kind.
type calls struct{ percentiles }

// sizes are the tables' at one time of the last round.
type sizes struct {
	Seconds float64
	Ran     int
	TotalMB float64 `json:"total_mb"`
	MB      map[string]float64
}

// readResults reads the rows of a directory, by their names.
func readResults(dir string) (map[string]*result, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	results := map[string]*result{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		r := &result{}
		if err := json.Unmarshal(text, r); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if len(r.EachRound) == 0 {
			return nil, fmt.Errorf("%s has no rounds: measure it again with scripts/figures", file)
		}
		results[strings.TrimSuffix(filepath.Base(file), ".json")] = r
	}
	return results, nil
}
