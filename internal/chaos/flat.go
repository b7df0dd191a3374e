//go:build unix

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A growth compares the beginning of a soak with its end.
type growth struct {
	Figure string `json:"figure"`
	First  number `json:"first"` // the median of the first tenth of the samples
	Last   number `json:"last"`  // of the last tenth
	Most   number `json:"most"`  // that the last may be
	Flat   bool   `json:"flat"`
}

// A number is null in JSON where it is NaN: there are no samples.
type number float64

func (n number) none() bool { return math.IsNaN(float64(n)) }

// MarshalJSON implements [json.Marshaler].
func (n number) MarshalJSON() ([]byte, error) {
	if n.none() {
		return []byte("null"), nil
	}
	return json.Marshal(float64(n))
}

// String is the number with three digits or so.
func (n number) String() string {
	switch {
	case n.none():
		return "-"
	case math.Abs(float64(n)) >= 100:
		return fmt.Sprintf("%.0f", float64(n))
	}
	return fmt.Sprintf("%.1f", float64(n))
}

// tolerance is the share by which a figure may grow, if that is more than its
// slack. The median of a tenth does not see a fault, but the faults of an hour
// are not spread so evenly that nothing differs.
const tolerance = 0.25

// growths judges the samples that were taken after a time. A figure of which
// there are none is not flat: nobody knows.
func growths(figures []figure, rows []reading, after time.Duration) []growth {
	rows = slices.DeleteFunc(slices.Clone(rows), func(r reading) bool { return r.at < after })
	tenth := (len(rows) + 9) / 10
	var all []growth
	for i, f := range figures {
		g := growth{Figure: f.name, First: median(rows[:tenth], i), Last: median(rows[len(rows)-tenth:], i)}
		g.Most = g.First + max(tolerance*g.First, number(f.slack))
		g.Flat = g.Last <= g.Most
		all = append(all, g)
	}
	return all
}

// median is that of the samples that there are; NaN where there are none.
func median(rows []reading, column int) number {
	var values []float64
	for _, r := range rows {
		if v := r.values[column]; !math.IsNaN(v) {
			values = append(values, v)
		}
	}
	if len(values) == 0 {
		return number(absent)
	}
	slices.Sort(values)
	return number(at(values, 0.5))
}

// at is the value below which a share of the sorted ones lies.
func at[T any](sorted []T, share float64) T { return sorted[int(share*float64(len(sorted)-1)+0.5)] }

// flat tells whether nothing has grown.
func (s *soaked) flat() bool {
	return !slices.ContainsFunc(s.Growths, func(g growth) bool { return !g.Flat })
}

// A soaked is what a soak has shown beside the promises.
type soaked struct {
	File    string   `json:"file"`
	Samples int      `json:"samples"`
	Warm    float64  `json:"warm"` // seconds at the beginning that do not count
	Peak    float64  `json:"peak"` // MB of the coordinator's memory, most of it for the check of the history
	Growths []growth `json:"growths"`
}

// judge compares the samples of a run that has ended.
func (r *recorder) judge(after time.Duration) (*soaked, error) {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		return nil, err
	}
	return &soaked{File: r.file.Name(), Samples: len(r.readings), Warm: after.Seconds(), Peak: float64(used.Maxrss) * 1024 / megabyte,
		Growths: growths(r.figures, r.readings, after)}, nil
}

func (s *soaked) print(w io.Writer) error {
	fmt.Fprintf(w, "\n%d samples in %s, those after %.0f s by their medians:\n", s.Samples, s.File, s.Warm)
	fmt.Fprintf(w, "%13s%12s%12s\n", "first tenth", "last tenth", "at most")
	for _, g := range s.Growths {
		verdict := "flat"
		switch {
		case g.First.none() || g.Last.none():
			verdict = "NOT SAMPLED"
		case !g.Flat:
			verdict = "NOT FLAT"
		}
		fmt.Fprintf(w, "%13s%12s%12s  %s  %s\n", g.First, g.Last, g.Most, verdict, strings.ReplaceAll(strings.ReplaceAll(g.Figure, "_", " "), ":", ", "))
	}
	_, err := fmt.Fprintf(w, "the coordinator had %.0f MB at most, for the check of the history\n", s.Peak)
	return err
}
