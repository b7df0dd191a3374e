package bench

import (
	"slices"
	"sync"
	"time"
)

// A timeline is how many jobs had run when.
type timeline struct {
	points []point
	total  int
}

type point struct {
	at int64 // nanoseconds
	n  int   // since the point before
}

func (t *timeline) add(at int64, n int) {
	if n > 0 {
		t.points = append(t.points, point{at, n})
		t.total += n
	}
}

// sorted brings the points of several processes into their order.
func (t *timeline) sorted() []point {
	slices.SortStableFunc(t.points, func(a, b point) int { return int(a.at - b.at) })
	return t.points
}

// tenths are the rates, in jobs a second, at which each tenth of the jobs ran:
// the first counts from began, the last until ended.
func (t *timeline) tenths(began, ended time.Time) []float64 {
	var (
		at    = []int64{began.UnixNano()}
		done  = 0
		prior = began.UnixNano()
	)
	for _, p := range t.sorted() {
		for len(at) < 10 {
			goal := t.total * len(at) / 10
			if done+p.n < goal {
				break
			}
			// Between two points, jobs count as run at an even pace.
			share := float64(goal-done) / float64(p.n)
			at = append(at, prior+int64(share*float64(p.at-prior)))
		}
		done += p.n
		prior = p.at
	}
	at = append(at, ended.UnixNano())
	rates := make([]float64, len(at)-1)
	for i := range rates {
		rates[i] = float64(t.total) / 10 / max(float64(at[i+1]-at[i])/1e9, 1e-6)
	}
	return rates
}

// spans are the rates in each tenth of the time from began to ended.
func (t *timeline) spans(began, ended time.Time) []float64 {
	rates := make([]float64, 10)
	span := ended.Sub(began) / 10
	for _, p := range t.points {
		if i := (p.at - began.UnixNano()) / max(int64(span), 1); i >= 0 && i < 10 {
			rates[i] += float64(p.n) / span.Seconds()
		}
	}
	return rates
}

// A lockedTimeline is filled by several goroutines.
type lockedTimeline struct {
	mu sync.Mutex
	timeline
}

// add notes n jobs as done now.
func (t *lockedTimeline) add(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.timeline.add(time.Now().UnixNano(), n)
}

func (t *lockedTimeline) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.total
}
