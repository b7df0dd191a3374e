//go:build unix

package main

import (
	"encoding/csv"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bearmq/bearmq/internal/stress"
)

const soakJobsPerSecond = 200

// soaking is a steady load with some faults, while jobs are deleted as fast as they
// come: what grows all the same is a leak. One worker and one orchestrator live
// through all of it.
func (o options) soaking(c stress.Config) stress.Config {
	c.Jobs, c.Wave = int(soakJobsPerSecond*o.duration.Seconds()), 0
	c.Retention = min(time.Minute, o.duration/10)
	c.Sample = max(min(5*time.Second, o.duration/120), 250*time.Millisecond)
	c.Load = stress.Load{
		Channels: []string{"one", "two", "three"}, Groups: 10_000, Grouped: 0.6, Hot: 0.05, Behind: 300, Most: 5,
		Task: 500 * time.Millisecond, Tail: 10, HotTail: 100,
		Fail: 0.05, Panic: 0.01, Snooze: 0.01, Complete: 0.1, Delay: 0.1, Strict: 0.3, Deaf: 0.3, Repeat: true,
	}
	// Some seven a minute, most of them over in seconds: in most samples there is none.
	// In a run of less than half an hour they come closer together.
	every := func(d time.Duration) time.Duration {
		return time.Duration(float64(d) * min(1, max(o.duration.Minutes()/30, 1./15)))
	}
	c.Faults = stress.Faults{
		Spare: 1,
		Kill:  every(2 * time.Minute), Term: every(3 * time.Minute), Stop: every(3 * time.Minute), Asleep: 0.2, Pause: every(2 * time.Minute),
		Orchestrator: every(3 * time.Minute), Terminate: every(time.Minute), Cut: every(time.Minute), CutReply: every(time.Minute),
		Slow: every(3 * time.Minute), Stall: every(3 * time.Minute), Blackhole: every(4 * time.Minute),
		SlowProcess: every(5 * time.Minute), StallProcess: every(5 * time.Minute), BlackholeProcess: every(5 * time.Minute),
		RestartFast: every(10 * time.Minute), RestartImmediate: every(10 * time.Minute), Outage: every(10 * time.Minute),
	}
	return c
}

// warm is how long the samples do not count: the tables fill until the first
// jobs are deleted, and vacuum has been there.
func warm(c stress.Config) time.Duration { return 3 * c.Retention }

// A figure is one column of the samples. "PANEL:LINE" is drawn into a panel
// together with others.
type figure struct {
	name  string
	slack float64 // that it may grow by anyway: what is random in runs of a minute, and far below what a leak makes in an hour
	of    func(stress.Sample) float64
}

var absent = math.NaN() // what a sample does not have

const megabyte = 1e6

// figures are the columns, in the order of the file.
func figures() []figure {
	var all []figure
	add := func(name string, slack float64, of func(stress.Sample) float64) {
		all = append(all, figure{name, slack, of})
	}
	process := func(name string, slack float64, of func(stress.Vitals) float64) {
		told := func(v *stress.Vitals) float64 {
			if v == nil {
				return absent
			}
			return of(*v)
		}
		add(name+":worker", slack, func(s stress.Sample) float64 { return told(s.Worker) })
		add(name+":orchestrator", slack, func(s stress.Sample) float64 { return told(s.Orchestrator) })
	}
	rss := func(v stress.Vitals) float64 { return positive(float64(v.RSS) / megabyte) }
	heap := func(v stress.Vitals) float64 { return positive(float64(v.Heap) / megabyte) }
	process("memory_MB", 8, rss)
	add("memory_MB:producers", 8, func(s stress.Sample) float64 { return rss(s.Producers) })
	process("live_heap_MB", 2, heap)
	add("live_heap_MB:producers", 2, func(s stress.Sample) float64 { return heap(s.Producers) })
	goroutines := func(v stress.Vitals) float64 { return float64(v.Goroutines) }
	process("goroutines", 8, goroutines)
	// The proxy is in the same process, and has two for each connection of all processes.
	add("goroutines:producers", 40, func(s stress.Sample) float64 { return goroutines(s.Producers) })
	for _, kind := range []string{"worker", "orchestrator", "producer"} {
		add("connections:"+kind+"s", 6, func(s stress.Sample) float64 {
			n, ok := s.Connections[kind]
			if !ok {
				return absent
			}
			return float64(n)
		})
	}
	tables := func(name string, slack float64, of func(stress.Table) float64) {
		for panel, some := range soakTables {
			for _, one := range some {
				add(panels[panel]+name+":"+one, slack, func(s stress.Sample) float64 { return size(s, one, of) })
			}
		}
	}
	tables("tables_MB", 3, func(t stress.Table) float64 { return float64(t.Bytes) / megabyte })
	tables("rows", 500, func(t stress.Table) float64 { return float64(t.Live) })
	tables("dead_rows", 5000, func(t stress.Table) float64 { return float64(t.Dead) })
	latency := func(name string, of func(stress.Sample) []time.Duration) {
		add(name+":p50", 5, func(s stress.Sample) float64 { return milliseconds(of(s), 0.5) })
		add(name+":p99", 25, func(s stress.Sample) float64 { return milliseconds(of(s), 0.99) })
	}
	latency("enqueue_to_start_ms", func(s stress.Sample) []time.Duration { return s.Starts })
	latency("call_of_a_claim_ms", func(s stress.Sample) []time.Duration { return s.Claims })
	add("jobs_without_an_end", 100, func(s stress.Sample) float64 {
		if s.Backlog == nil {
			return absent
		}
		return float64(*s.Backlog)
	})
	return all
}

// soakTables are drawn in two panels: those that have the jobs, and the smaller
// ones.
var (
	soakTables = [][]string{{"job", "outcome", "ticket", "lease", "attempt_error"}, {"group_anchor", "job_group", "session", "log_interval", others}}
	panels     = []string{"", "other_"}
)

const others = "others" // all tables that are not named

// size is that of one table, or of all others together.
func size(s stress.Sample, name string, of func(stress.Table) float64) float64 {
	if s.Tables == nil {
		return absent
	}
	if name != others {
		t, ok := s.Tables[name]
		if !ok {
			return absent
		}
		return of(t)
	}
	var sum float64
	for table, t := range s.Tables {
		if !slices.Contains(slices.Concat(soakTables...), table) {
			sum += of(t)
		}
	}
	return sum
}

// positive: a reading of nothing is none.
func positive(x float64) float64 {
	if x <= 0 {
		return absent
	}
	return x
}

func milliseconds(of []time.Duration, share float64) float64 {
	if len(of) == 0 {
		return absent
	}
	sorted := slices.Sorted(slices.Values(of))
	return float64(at(sorted, share).Microseconds()) / 1000
}

// A recorder writes the samples into a file as they come, and keeps them.
type recorder struct {
	file     *os.File
	csv      *csv.Writer
	figures  []figure
	readings []reading
	err      error
}

// A reading is one sample: NaN where there is none.
type reading struct {
	at     time.Duration
	values []float64
}

func record(name string) (*recorder, error) {
	file, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	r := &recorder{file: file, csv: csv.NewWriter(file), figures: figures()}
	header := []string{"seconds"}
	for _, f := range r.figures {
		header = append(header, f.name)
	}
	r.write(header)
	return r, nil
}

func (r *recorder) write(cells []string) {
	if r.err == nil {
		r.err = r.csv.Write(cells)
	}
	if r.csv.Flush(); r.err == nil {
		r.err = r.csv.Error()
	}
}

func (r *recorder) add(s stress.Sample) {
	cells := []string{strconv.FormatFloat(s.At.Seconds(), 'f', 1, 64)}
	values := make([]float64, len(r.figures))
	for i, f := range r.figures {
		values[i] = f.of(s)
		cell := ""
		if !math.IsNaN(values[i]) {
			cell = strings.TrimSuffix(strings.TrimRight(strconv.FormatFloat(values[i], 'f', 3, 64), "0"), ".")
		}
		cells = append(cells, cell)
	}
	r.readings = append(r.readings, reading{s.At, values})
	r.write(cells)
}

func (r *recorder) close() error {
	if err := r.file.Close(); r.err == nil {
		r.err = err
	}
	return r.err
}
