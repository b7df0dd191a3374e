package bearmq

import (
	"math"
	"slices"
	"sync"
	"time"
)

// A mailbox is what one slot runs one after another: the jobs of one group
// that a claim brought, or a single job without a group.
type mailbox struct {
	lease   *lease
	group   string
	jobs    []*attempt // not yet started, in order
	current *attempt   // the last one that was started
	since   time.Time  // waits for a slot, or for its limit
}

func (m *mailbox) head() *attempt { return m.jobs[0] }

// slots run mailboxes, as many at once as the worker's concurrency allows, and
// of a limited definition as many as its limit allows. What waits for a slot
// waits here.
type slots struct {
	size   int
	limits map[string]int
	run    func(*mailbox) // on a goroutine of its own
	spared func()         // told when there is room again for a limited definition, or a job that runs alone

	mu      sync.Mutex
	busy    int // slots
	ready   []*mailbox
	waiting map[string][]*mailbox // for a limit, by definition
	used    map[string]int        // of the limits
	queued  int                   // jobs in ready
	running map[*attempt]bool
	grouped map[JobID]*attempt // of a group, running or to run in a mailbox
	retaken map[JobID]bool     // the session will yet be told that it lost them; it has them again
	alone   int                // jobs that run alone, running or queued
	closed  bool
	idle    chan struct{} // closed while closed && busy == 0

	average float64 // seconds that a job takes, 0: not known
	seen    int     // jobs that it is made of
}

func newSlots(size int, limits map[string]int) *slots {
	return &slots{size: size, limits: limits, spared: func() {}, waiting: map[string][]*mailbox{}, used: map[string]int{},
		running: map[*attempt]bool{}, grouped: map[JobID]*attempt{}, retaken: map[JobID]bool{}, idle: make(chan struct{})}
}

const (
	// horizon is how far ahead jobs are claimed: what will start within it by
	// the time that jobs have been seen to take.
	horizon = 50 * time.Millisecond
	// maxAhead bounds it.
	maxAhead = 2000
	// hoard is how long what was claimed ahead may wait behind jobs that take
	// longer than expected. Then it goes back, for others to take.
	hoard = 10 * horizon
	// maxMailbox bounds how many jobs of one group a claim takes.
	maxMailbox = 200
)

// want says how many jobs to claim now, and of one group how many.
func (s *slots) want() (n, each int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	each = 8
	if len(s.ready) > 0 && time.Since(s.ready[0].since) > horizon {
		return 0, each // the guess was wrong
	}
	free := max(s.size-s.busy, 0)
	ahead := 0
	if s.average > 0 {
		soon := horizon.Seconds() / s.average
		// Trust grows with what has been seen: one fast job does not make a fast
		// thousand.
		ahead = int(min(float64(s.size)*soon, maxAhead, float64(2*s.seen)))
		each = int(min(max(soon, 1), maxMailbox))
	}
	n = free + ahead - s.queued
	if n < (free+ahead)/2 && n < 500 && s.queued > 0 {
		n = 0 // not worth a round trip yet
	}
	return max(n, 0), each
}

// put queues a mailbox and returns one that must not wait here: of a limited
// definition that has enough waiting already.
func (s *slots) put(m *mailbox) (refused bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return true
	}
	if m.group != "" {
		for _, a := range m.jobs {
			s.book(a)
		}
	}
	m.since = time.Now()
	name := m.head().job.Name
	if limit, limited := s.limits[name]; limited && s.used[name] >= limit {
		if len(s.waiting[name]) >= limit {
			return true
		}
		s.waiting[name] = append(s.waiting[name], m)
		return false
	} else if limited {
		s.used[name]++
	}
	s.start(m)
	return false
}

// book notes a job of a group. One that is here already, under the same
// session, was taken away from its earlier attempt.
func (s *slots) book(a *attempt) {
	id := a.job.ID
	if old := s.grouped[id]; old != nil && old.lease.session == a.lease.session && !old.revoked.Load() {
		s.take(old)
		s.retaken[id] = true
	}
	s.grouped[id] = a
}

// unbook forgets a job of a group.
func (s *slots) unbook(a *attempt) {
	if s.grouped[a.job.ID] == a {
		delete(s.grouped, a.job.ID)
	}
}

// take ends the context of an attempt whose job was taken away.
func (s *slots) take(a *attempt) {
	a.revoked.Store(true)
	if s.running[a] {
		a.cancel(ErrLeaseLost)
	}
}

// start gives a mailbox a slot, or a place in the queue for one.
func (s *slots) start(m *mailbox) {
	if s.busy < s.size {
		s.busy++
		go s.run(m)
		return
	}
	s.ready = append(s.ready, m)
	s.queued += len(m.jobs)
}

// next gives a slot that has ended with its mailbox the next one, or none: then
// the slot is free.
func (s *slots) next() *mailbox {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ready) > 0 && !s.closed {
		m := s.ready[0]
		s.ready[0] = nil
		s.ready = s.ready[1:]
		s.queued -= len(m.jobs)
		return m
	}
	s.busy--
	if s.closed && s.busy == 0 {
		close(s.idle)
	}
	return nil
}

// begin books an attempt as running.
func (s *slots) begin(a *attempt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running[a] = true
	switch {
	case a.revoked.Load():
		a.cancel(ErrLeaseLost)
	case a.cancelled.Load():
		a.cancel(ErrCancelled)
	}
}

// end books it as over. limited gives its place to one that waits for it.
func (s *slots) end(a *attempt, took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	began := s.running[a] // not one that was cancelled before
	delete(s.running, a)
	s.unbook(a)
	if x := a.lease.session; x.lost() {
		x.ended = append(x.ended, a.job.ID)
	}
	if a.alone {
		s.alone--
		s.spared()
	}
	if !began {
		return
	}
	s.seen++
	const weight = 0.05
	if seconds := max(took.Seconds(), 1e-7); s.average == 0 {
		s.average = seconds
	} else {
		s.average += weight * (seconds - s.average)
	}
}

// enter asks for a place of a limited definition, for a job in the middle of a
// mailbox.
func (s *slots) enter(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	limit, limited := s.limits[name]
	if !limited {
		return true
	}
	if s.used[name] >= limit {
		return false
	}
	s.used[name]++
	return true
}

// leave gives a place of a limited definition back.
func (s *slots) leave(name string) {
	if len(s.limits) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, limited := s.limits[name]; !limited {
		return
	}
	if w := s.waiting[name]; len(w) > 0 && !s.closed {
		s.waiting[name] = w[1:] // the place passes on
		w[0].since = time.Now()
		s.start(w[0])
		return
	}
	s.used[name]--
	s.spared()
}

// holds tells whether something waits.
func (s *slots) holds() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.waiting {
		if len(w) > 0 {
			return true
		}
	}
	return len(s.ready) > 0
}

// stale takes out what has waited for too long: behind slow jobs, or behind
// the limit of its definition.
func (s *slots) stale() (slow, limited []*mailbox) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := func(w []*mailbox) bool { return len(w) > 0 && time.Since(w[0].since) > hoard }
	if old(s.ready) {
		slow, s.ready, s.queued = s.ready, nil, 0
		s.average, s.seen = 0, 0 // is not what it was
		for _, m := range slow {
			s.unlimit(m)
		}
	}
	for name, w := range s.waiting {
		if old(w) {
			limited = append(limited, w...)
			delete(s.waiting, name)
		}
	}
	return slow, limited
}

// unlimit takes from a mailbox that was ready the place of its definition.
func (s *slots) unlimit(m *mailbox) {
	if name := m.head().job.Name; s.limits[name] > 0 {
		s.used[name]--
		s.spared()
	}
}

// room is how many more jobs of a definition this worker may ask for: where it
// is limited as many as may run now, and as many again to follow them.
func (s *slots) room(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	limit, limited := s.limits[name]
	switch {
	case !limited:
		return math.MaxInt32
	case s.used[name] >= limit || len(s.waiting[name]) > 0:
		return 0
	}
	return min(2*limit-s.used[name], math.MaxInt32)
}

// takeAlone tells whether a job that runs alone may be claimed: a worker has
// one at a time, so that jobs that a crash only happened to hit do not meet the
// one that causes it again.
func (s *slots) takeAlone() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.alone == 0
}

func (s *slots) addAlone() {
	s.mu.Lock()
	s.alone++
	s.mu.Unlock()
}

// none tells whether nothing is queued and nothing runs.
func (s *slots) none() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.busy == 0 && s.queued == 0
}

// forget drops what has not started of a mailbox.
func (s *slots) forget(m *mailbox) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(m)
	m.jobs = nil
}

// drop is forget under the lock.
func (s *slots) drop(m *mailbox) {
	for _, a := range m.jobs {
		s.unbook(a)
		if a.alone {
			s.alone--
			s.spared()
		}
	}
}

// close stops mailboxes from starting and returns those that wait.
func (s *slots) close() []*mailbox {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	all := s.ready
	for _, w := range s.waiting {
		all = append(all, w...)
	}
	s.ready, s.waiting, s.queued = nil, map[string][]*mailbox{}, 0
	if s.busy == 0 {
		close(s.idle)
	}
	return all
}

func (s *slots) stopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// wait waits until no slot is busy any more.
func (s *slots) wait(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-s.idle:
		return true
	default:
	}
	select {
	case <-s.idle:
		return true
	case <-t.C:
		return false
	}
}

func (s *slots) runningNow() []*attempt {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*attempt, 0, len(s.running))
	for a := range s.running {
		all = append(all, a)
	}
	return all
}

// dropSession forgets what waits and belongs to a session that was lost, and
// returns the jobs of it that were running.
func (s *slots) dropSession(x *session) []JobID {
	s.mu.Lock()
	defer s.mu.Unlock()
	drop := func(m *mailbox) bool {
		if m.lease.session != x {
			return false
		}
		s.drop(m)
		return true
	}
	s.ready = slices.DeleteFunc(s.ready, func(m *mailbox) bool {
		if !drop(m) {
			return false
		}
		s.queued -= len(m.jobs)
		s.unlimit(m)
		return true
	})
	for name, w := range s.waiting {
		s.waiting[name] = slices.DeleteFunc(w, drop)
	}
	clear(s.retaken)
	jobs := x.ended
	for a := range s.running {
		if a.lease.session == x {
			jobs = append(jobs, a.job.ID)
		}
	}
	slices.Sort(jobs)
	return jobs
}

// held are the jobs that run here, or are to run.
func (s *slots) held() []*attempt {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*attempt
	for a := range s.running {
		all = append(all, a)
	}
	for _, a := range s.grouped {
		if !s.running[a] {
			all = append(all, a)
		}
	}
	queued := s.ready
	for _, w := range s.waiting {
		queued = append(queued[:len(queued):len(queued)], w...)
	}
	for _, m := range queued {
		if m.group == "" {
			all = append(all, m.jobs...)
		}
	}
	return all
}

// cancelled ends the context of an attempt whose job is to be cancelled, or
// keeps it from beginning.
func (s *slots) cancelled(a *attempt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !a.cancelled.Swap(true) && s.running[a] {
		a.cancel(ErrCancelled)
	}
}

// revokeGroup takes away what is left of the mailbox of an attempt whose group
// was unlocked.
func (s *slots) revokeGroup(gone *attempt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.grouped {
		if a.lease == gone.lease && a.job.Group == gone.job.Group {
			a.revoked.Store(true)
			if s.running[a] {
				a.cancel(ErrLeaseLost)
			}
		}
	}
}

// revoke ends the contexts of jobs.
func (s *slots) revoke(ids []int64) []JobID {
	s.mu.Lock()
	defer s.mu.Unlock()
	var jobs []JobID
	for _, id := range ids {
		id := JobID(id)
		jobs = append(jobs, id)
		if s.retaken[id] {
			delete(s.retaken, id)
		} else if a := s.grouped[id]; a != nil {
			s.take(a)
		}
	}
	return jobs
}
