package bench

import (
	"context"
	"sync"
)

// parallel calls do n times at once. The first error ends ctx for the others.
func parallel(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if err := do(ctx, i); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// chunks hands out the numbers 0 to jobs-1, up to size at a time.
func chunks(jobs, size int) (next func() (lo, hi int, ok bool)) {
	var mu sync.Mutex
	at := 0
	return func() (lo, hi int, ok bool) {
		mu.Lock()
		defer mu.Unlock()
		lo, hi = at, min(at+size, jobs)
		at = hi
		return lo, hi, lo < hi
	}
}
