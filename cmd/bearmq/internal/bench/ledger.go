package bench

import (
	"fmt"
	"math/bits"
	"sync/atomic"
)

// A ledger says of jobs 0 to Jobs-1 which are in it. It is safe for concurrent
// adding.
type ledger struct {
	Jobs   int
	Words  []uint32
	Twice  []uint32 // those added more than once
	Others int64    // numbers that nobody enqueued
}

func newLedger(jobs int) ledger {
	return ledger{Jobs: jobs, Words: make([]uint32, (jobs+31)/32), Twice: make([]uint32, (jobs+31)/32)}
}

func (l *ledger) add(i int) {
	if i < 0 || i >= l.Jobs {
		atomic.AddInt64(&l.Others, 1)
		return
	}
	bit := uint32(1) << (i % 32)
	if atomic.OrUint32(&l.Words[i/32], bit)&bit != 0 {
		atomic.OrUint32(&l.Twice[i/32], bit)
	}
}

// merge adds another process's ledger.
func (l *ledger) merge(other ledger) {
	for i, w := range other.Words {
		l.Twice[i] |= other.Twice[i] | l.Words[i]&w
		l.Words[i] |= w
	}
	l.Others += other.Others
}

func (l *ledger) count() int { return ones(l.Words) }

func ones(words []uint32) (n int) {
	for _, w := range words {
		n += bits.OnesCount32(w)
	}
	return n
}

// once returns nil where each job is in the ledger exactly once. did says what
// the ledger means, such as "have run".
func (l *ledger) once(did string) error {
	missing := l.Jobs - l.count()
	twice := ones(l.Twice)
	switch {
	case missing > 0:
		return &CheckError{fmt.Sprintf("%s of %s jobs are missing: they do not count among those that %s; the first is number %d",
			thousands(missing), thousands(l.Jobs), did, l.firstMissing())}
	case twice > 0:
		return &CheckError{fmt.Sprintf("%s of %s jobs %s more than once", thousands(twice), thousands(l.Jobs), did)}
	case l.Others > 0:
		return &CheckError{fmt.Sprintf("%d jobs that nobody enqueued %s", l.Others, did)}
	}
	return nil
}

func (l *ledger) firstMissing() int {
	for i := range l.Jobs {
		if l.Words[i/32]&(1<<(i%32)) == 0 {
			return i
		}
	}
	return -1
}

// A CheckError says that the engine has lost, doubled or forgotten something.
type CheckError struct{ what string }

func (e *CheckError) Error() string { return "the check failed: " + e.what }
