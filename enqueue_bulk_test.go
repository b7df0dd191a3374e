package bearmq

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A sequence is written piece by piece: its length costs time and no memory.
func TestEnqueueSeqOfAMillionNeedsLittleMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("it enqueues a million jobs")
	}
	// Not parallel: the heap is that of the whole test binary.
	mq := migrated(t, Options{})
	const jobs = 1_000_000
	var before, now runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var peak uint64
	n, err := numbers.EnqueueSeq(t.Context(), mq, func(yield func(int) bool) {
		for i := range jobs {
			if i%20_000 == 0 {
				runtime.ReadMemStats(&now)
				peak = max(peak, now.HeapAlloc)
			}
			if !yield(i) {
				return
			}
		}
	})
	require.NoError(t, err)
	assert.EqualValues(t, jobs, n)
	assert.Less(t, int64(peak)-int64(before.HeapAlloc), int64(64<<20))
	t.Logf("%.1f MB at most", float64(int64(peak)-int64(before.HeapAlloc))/(1<<20))
}
