//go:build unix

package stress

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/metrics"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// Vitals are what a process knows of itself.
type Vitals struct {
	RSS        int64 // bytes; 0 where the system has no /proc
	Heap       int64 // bytes that were in use after the last collection
	Goroutines int
	// Since the last time:
	Starts []time.Duration // from the call that enqueued a job to its first start; of jobs that wait for nothing
	Claims []time.Duration // how long the library's claims took
}

const vitalsSuffix = ".vitals"

// vitals gather a process's Vitals, and tell them to the coordinator: a line of
// JSON each time. It is the tracer of the process's connections.
type vitals struct {
	mu             sync.Mutex
	starts, claims []time.Duration
}

// tell writes the vitals again and again until the function that it returns is
// called.
func (v *vitals) tell(file string, every time.Duration) (stop func() error) {
	if every == 0 {
		return func() error { return nil }
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- v.write(ctx, file, every) }()
	return func() error {
		cancel()
		return <-done
	}
}

func (v *vitals) write(ctx context.Context, name string, every time.Duration) error {
	file, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	for err == nil && wait(ctx, every) {
		var line []byte
		if line, err = json.Marshal(v.take()); err == nil {
			_, err = file.Write(append(line, '\n'))
		}
	}
	return errors.Join(err, file.Close())
}

// take returns the vitals, and begins anew.
func (v *vitals) take() Vitals {
	now := measure()
	v.mu.Lock()
	defer v.mu.Unlock()
	now.Starts, now.Claims = v.starts, v.claims
	v.starts, v.claims = nil, nil
	return now
}

// mostTold bounds what is remembered of a process that tells nobody.
const mostTold = 10_000

func (v *vitals) started(after time.Duration) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.starts) < mostTold {
		v.starts = append(v.starts, after)
	}
}

type claimBegan struct{}

// TraceQueryStart remembers when a claim begins.
func (v *vitals) TraceQueryStart(ctx context.Context, _ *pgx.Conn, q pgx.TraceQueryStartData) context.Context {
	if strings.Contains(q.SQL, ".claim_log_v") || strings.Contains(q.SQL, ".claim_due_v") {
		return context.WithValue(ctx, claimBegan{}, time.Now())
	}
	return ctx
}

// TraceQueryEnd counts a claim that was answered.
func (v *vitals) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, q pgx.TraceQueryEndData) {
	began, is := ctx.Value(claimBegan{}).(time.Time)
	if !is || q.Err != nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.claims) < mostTold {
		v.claims = append(v.claims, time.Since(began))
	}
}

// measure reads what the process is made of.
func measure() Vitals {
	heap := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(heap)
	return Vitals{RSS: resident(), Heap: int64(heap[0].Value.Uint64()), Goroutines: runtime.NumGoroutine()}
}

// resident is the process's memory, from the second number in statm; 0 where
// there is none.
func resident() int64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var size, pages int64
	if _, err := fmt.Sscan(string(text), &size, &pages); err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}

// A reader reads what a process has told since the last time.
type reader struct{ offset int64 }

func (r *reader) read(name string) ([]Vitals, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	text := make([]byte, info.Size()-r.offset)
	if _, err := file.ReadAt(text, r.offset); err != nil {
		return nil, err
	}
	text = text[:bytes.LastIndexByte(text, '\n')+1] // the rest is being written, or was by a process that is dead
	r.offset += int64(len(text))
	var all []Vitals
	for line := range bytes.Lines(text) {
		var v Vitals
		if err := json.Unmarshal(line, &v); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, v)
	}
	return all, nil
}
