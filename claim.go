package bearmq

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/bearmq/bearmq/internal/store"
)

// A laneState is what the claim loop knows of one lane.
type laneState struct {
	id       int32
	priority int16
	log, due bool      // may have work there
	dueTurn  bool      // the next claim is of due tickets, where there are both
	from     time.Time // of due tickets: what was handed out before
	looked   time.Time // when it was last seen
}

// A claimLoop takes work for a worker, one claim at a time, from one lane after
// another. It sleeps when there is nothing to take or no room for it.
type claimLoop struct {
	*workerRun
	lanes   map[int32]*laneState
	order   []*laneState  // the highest priority first
	turn    map[int16]int // of a priority: its lanes take turns
	look    bool          // look at all lanes before sleeping
	nextDue time.Time     // of the tickets that were not due when looked at
	fails   *pause

	found     time.Time // when something was last claimed
	looked    time.Time // when the last look was
	fullLook  time.Time // when the last look went all the way back
	wakes     int       // found something since window began
	window    time.Time
	listed    *session // as a sleeper, in the database; nil: none
	settling  int      // looks that are still to come after falling asleep
	registry  <-chan struct{}
	collision int                 // claims in a row that met another claim of the lane
	most      int                 // jobs to ask for, since a claim took too long; 0: no bound
	vain      int                 // claims since the last sleep that found nothing
	strange   map[int32]time.Time // lanes that no look has shown, and when one was forced by them
	asked     bool                // some of the jobs here may have to be cancelled
	askedAt   time.Time           // when that was last looked at
	askAgain  int                 // such looks that come soon
}

const (
	// lookBack is how far back an ordinary look for due tickets goes, and
	// lookBackAll how often one goes all the way.
	lookBack    = 5 * time.Second
	lookBackAll = 10 * time.Second
	// lookBusy is how often a worker looks at all lanes that never runs out of
	// work: some may be due by now, or new.
	lookBusy = 200 * time.Millisecond
	// A worker that has found nothing for sleepAfter asks to be notified; one
	// that finds something busyWakes times a second looks every busyPoll
	// instead: then nobody needs to notify it, which would serialize commits.
	sleepAfter = 250 * time.Millisecond
	busyWakes  = 200
	busyPoll   = 2 * time.Millisecond
)

// claimLoop runs until ctx ends or, for Drain, until nothing is left.
func (r *workerRun) claimLoop(ctx context.Context) {
	r.slots.run = func(m *mailbox) { r.slot(m, false) }
	r.slots.spared = r.ear.ring
	l := &claimLoop{workerRun: r, lanes: map[int32]*laneState{}, turn: map[int16]int{}, strange: map[int32]time.Time{}, look: true, fails: newPause(), registry: r.mq.registry.changed()}
	defer l.unlist()
	for ctx.Err() == nil {
		err := l.step(ctx)
		if errors.Is(err, errDrained) {
			return
		}
		if err != nil {
			l.look = true
			l.failing(ctx, "claim", err, l.fails.next())
			continue
		}
		l.fails.reset()
	}
}

var errDrained = errors.New("nothing is left")

// step does one thing: claim, look, or sleep.
func (l *claimLoop) step(ctx context.Context) error {
	if l.session != nil && l.session.lost() {
		l.lost(l.session)
		l.look = true
	}
	l.hear()
	if err := l.cancelAsked(); err != nil {
		return err
	}
	slow, limited := l.slots.stale()
	for _, m := range slow {
		l.giveBack(m)
	}
	for _, m := range limited {
		l.park(m)
	}
	n, each := l.slots.want()
	if n == 0 || l.finisher.behind() {
		l.waitForRoom(ctx)
		return nil
	}
	if time.Since(l.looked) > lookBusy || l.dueSinceLook() {
		l.look = true
	} else if lane := l.nextLane(); lane != nil {
		return l.claim(ctx, lane, n, each)
	}
	if l.look {
		return l.lookForWork()
	}
	if l.drain {
		if l.slots.none() && l.finisher.none() {
			// What a finish has written since the last look may be runnable.
			if err := l.lookForWork(); err != nil || l.nextLane() != nil {
				return err
			}
			return errDrained
		}
		l.waitForRoom(ctx)
		l.look = true
		return nil
	}
	return l.sleep(ctx)
}

// hear takes up what the worker has been told.
func (l *claimLoop) hear() {
	lanes, all, asked := l.ear.take()
	l.look, l.asked = l.look || all, l.asked || asked
	for _, id := range lanes {
		if lane := l.lanes[id]; lane != nil {
			lane.log = true
			continue
		}
		l.look = true // of another channel, or new
		if l.serves(id) && time.Since(l.strange[id]) > lookBusy {
			// Its priority may be higher than that of all others: look at once. Not
			// each time, for its channel may be paused.
			l.strange[id], l.looked = time.Now(), time.Time{}
		}
	}
}

// serves tells whether a lane may be of the worker's channels.
func (l *claimLoop) serves(id int32) bool {
	channel := l.mq.store.Channel(id)
	return l.opts.Channels == nil || channel == "" || slices.Contains(l.opts.Channels, channel)
}

// dueSinceLook tells whether a ticket has fallen due since the last look.
func (l *claimLoop) dueSinceLook() bool {
	return !l.nextDue.IsZero() && time.Since(l.nextDue) > 0
}

// nextLane is the lane whose turn it is, of those that may have work and have
// the highest priority.
func (l *claimLoop) nextLane() *laneState {
	for rest := l.order; len(rest) > 0; {
		n := slices.IndexFunc(rest, func(lane *laneState) bool { return lane.priority != rest[0].priority })
		if n < 0 {
			n = len(rest)
		}
		for i := range n {
			turn := (l.turn[rest[0].priority] + 1 + i) % n
			if lane := rest[turn]; lane.log || lane.due {
				l.turn[lane.priority] = turn
				return lane
			}
		}
		rest = rest[n:]
	}
	return nil
}

// callContext is for a call to the database. It does not end with Run's: a
// statement that is cancelled half way costs its connection, and these take
// milliseconds.
func (l *claimLoop) callContext() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(l.values), l.mq.opts.SessionTTL/3)
}

// hot is how many lanes of a priority may have work.
func (l *claimLoop) hot(priority int16) (n int) {
	for _, lane := range l.order {
		if lane.priority == priority && (lane.log || lane.due) {
			n++
		}
	}
	return n
}

// lookForWork reads which lanes have work.
func (l *claimLoop) lookForWork() error {
	back := lookBack
	if time.Since(l.fullLook) > lookBackAll || l.drain {
		back, l.fullLook = 0, time.Now()
	}
	began := time.Now()
	defer func() { l.looked = time.Now() }() // not began: a look may take longer than lookBusy
	ctx, cancel := l.callContext()
	defer cancel()
	names, _ := l.wanted()
	work, err := l.mq.store.FindWork(ctx, l.opts.Channels, names, l.slots.takeAlone(), back)
	if err != nil {
		return err
	}
	l.look = false
	l.nextDue = time.Time{}
	l.order = l.order[:0]
	for _, w := range work {
		lane := l.lanes[w.Lane]
		if lane == nil {
			lane = &laneState{id: w.Lane, priority: w.Priority}
			l.lanes[w.Lane] = lane
		}
		// A look that did not go all the way back cannot say that nothing is due.
		lane.log, lane.due, lane.looked = w.Log, w.Due || lane.due && back > 0, began
		if back == 0 {
			lane.from = time.Time{}
		}
		if w.NextDue != nil && *w.NextDue > 0 {
			if at := began.Add(*w.NextDue); l.nextDue.IsZero() || at.Before(l.nextDue) {
				l.nextDue = at
			}
		}
		l.order = append(l.order, lane)
	}
	for id, lane := range l.lanes {
		if lane.looked != began {
			delete(l.lanes, id) // paused
		}
	}
	return nil
}

// wanted are the names that the worker has a handler and room for, and for how
// many jobs of each.
func (l *claimLoop) wanted() (names []string, rooms []int32) {
	for _, name := range l.mq.registry.names() {
		if room := l.slots.room(name); room > 0 {
			names, rooms = append(names, name), append(rooms, int32(room))
		}
	}
	return names, rooms
}

// claim takes up to n jobs of a lane, from its log or else its due tickets.
func (l *claimLoop) claim(ctx context.Context, lane *laneState, n, each int) error {
	s, err := l.current(ctx)
	if err != nil {
		return err
	}
	n = max(n/max(l.hot(lane.priority), 1), 1) // they share the room
	if l.most > 0 {
		n = min(n, l.most)
	}
	nonce := rand.Int64()
	// Of both in turn, so that neither new jobs nor retries starve the others.
	fromLog := lane.log && !(lane.due && lane.dueTurn)
	lane.dueTurn = fromLog
	var c *store.Claim
	call, cancel := l.callContext()
	defer cancel()
	if fromLog {
		c, err = l.mq.store.ClaimLog(call, lane.id, s.id, nonce, n, each)
	} else {
		names, rooms := l.wanted()
		c, err = l.mq.store.ClaimDue(call, lane.id, s.id, nonce, n, each, names, rooms, l.slots.takeAlone(), lane.from)
	}
	if err != nil {
		// It may have been done all the same, and a live session's lease is
		// recovered by nobody.
		l.returnClaim(s, nonce)
		if store.TooSlow(err) {
			l.most = max(n/2, 1)
		}
		return err
	}
	if l.most *= 2; l.most > maxAhead {
		l.most = 0
	}
	if c.Status == store.Locked {
		l.collision++
		if l.collision > len(l.order) {
			// Every lane with work is being claimed from. The more claims are
			// refused, the longer the pauses: those of many processes must not
			// starve the one that holds the lane. (To wait for the lane in the
			// database is no faster.)
			sleep(ctx, rand.N(time.Millisecond<<min(l.collision, 6)))
		}
		return nil
	}
	l.collision = 0
	switch c.Status {
	case store.Expired:
		s.lose()
	case store.Paused:
		lane.log, lane.due = false, false
		l.look = true
	case store.Step, store.Claimed:
		l.noteFound()
		l.vain = 0
		if c.Status == store.Claimed {
			var cancelled map[JobID]bool
			cancelled, err = l.askedOf(c)
			l.accept(s, lane.id, c, cancelled)
		}
		if !fromLog {
			lane.from = c.Until
		}
		if c.Read < n {
			l.cool(lane, fromLog)
		}
	case store.Empty:
		if !fromLog && !lane.from.IsZero() {
			lane.from = time.Time{} // perhaps it is older: all the way back
			return nil
		}
		l.cool(lane, fromLog)
		if l.vain++; l.vain > 2*len(l.order) {
			// What the looks see nobody can have, for instance because another
			// transaction holds it.
			sleep(ctx, min(time.Duration(l.vain)*time.Millisecond, busyPoll<<5))
		}
	}
	return err
}

// cool notes that a lane has nothing more for now; a look makes sure of it.
func (l *claimLoop) cool(lane *laneState, fromLog bool) {
	if fromLog {
		lane.log = false
	} else {
		lane.due = false
	}
	l.look = true
}

func (l *claimLoop) returnClaim(s *session, nonce int64) {
	for p := newPause(); !s.lost(); {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(l.values), s.ttl/3)
		err := l.mq.store.ReturnClaim(ctx, s.id, nonce)
		cancel()
		if err == nil {
			return
		}
		if !l.failing(context.WithoutCancel(l.values), "return", err, p.next()) {
			return
		}
	}
}

// accept makes mailboxes of a claim and gives them to the slots.
func (l *claimLoop) accept(s *session, lane int32, c *store.Claim, cancelled map[JobID]bool) {
	held := &lease{id: c.Lease, nonce: c.Nonce, session: s, left: len(c.Jobs)}
	var boxes []*mailbox
	groups := map[string]*mailbox{}
	channel := l.mq.store.Channel(lane)
	for i := range c.Jobs {
		a := l.newAttempt(&c.Jobs[i], held, channel)
		if a.alone {
			l.slots.addAlone()
		}
		if cancelled[a.job.ID] {
			a.cancelled.Store(true)
		}
		if l.mq.observed() {
			l.mq.emit(JobDequeued{a.job.about(l.name)})
		}
		group := c.Jobs[i].Group
		box := groups[group]
		if group == "" || box == nil {
			box = &mailbox{lease: held, group: group}
			boxes = append(boxes, box)
			if group != "" {
				groups[group] = box
			}
		}
		box.jobs = append(box.jobs, a)
	}
	for _, m := range boxes {
		switch {
		case !m.head().cancelled.Load() && l.mq.registry.handler(m.head().job.Name) == nil:
			l.orphan(m)
		case l.slots.put(m):
			l.park(m)
		}
	}
}

// newAttempt makes of a claimed job an attempt, with the definition's defaults
// and the job's own options.
func (l *claimLoop) newAttempt(j *store.ClaimedJob, held *lease, channel string) *attempt {
	a := &attempt{worker: l.workerRun, lease: held, token: j.Token, ticket: j.Ticket, alone: j.Alone}
	a.job = &RawJob{ID: JobID(j.ID), Name: j.Name, Channel: channel, Group: j.Group, Attempt: int(j.Attempt), MaxAttempts: defaultAttempts,
		EnqueuedAt: j.CreatedAt, RawPayload: j.Payload, run: a}
	if h := l.mq.registry.handler(j.Name); h != nil {
		a.backoff, a.timeout, a.strict = h.def.backoff, h.def.timeout, h.def.groupOrder == Strict && j.Group != ""
		a.job.MaxAttempts = h.def.attempts
	}
	if j.Options == nil {
		return a
	}
	o, err := decodeOptions(j.Options)
	if err != nil {
		l.mq.log.Warn("bearmq: a job's options do not decode, its definition's hold", "job", a.job.ID, "definition", j.Name, "error", err)
		return a
	}
	if o.attempts != 0 {
		a.job.MaxAttempts = o.attempts
	}
	if o.backoff != nil {
		a.backoff = *o.backoff
	}
	if o.timeout != nil {
		a.timeout = *o.timeout
	}
	return a
}

// waitForRoom waits until a job has ended.
func (l *claimLoop) waitForRoom(ctx context.Context) {
	t := time.NewTimer(100 * time.Millisecond) // no wake-up is worth trusting blindly
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-l.capacity:
	case <-l.ear.rung: // a job that runs may have to be cancelled
	case <-t.C:
	}
}

// noteFound counts how often there is work, to choose between being notified
// and looking often.
func (l *claimLoop) noteFound() {
	l.found = time.Now()
	if l.found.Sub(l.window) > time.Second {
		l.window, l.wakes = l.found, 0
	}
	l.wakes++
	if l.wakes > busyWakes {
		l.unlist()
	}
}

// sleep waits until there may be work.
func (l *claimLoop) sleep(ctx context.Context) error {
	l.vain = 0
	wait := l.opts.PollInterval
	switch {
	case l.listed == nil && time.Since(l.found) < sleepAfter:
		wait = busyPoll
	case (l.listed == nil || l.listed != l.session) && l.mq.wakes.hears():
		s, err := l.current(ctx)
		if err != nil {
			return err
		}
		if err := l.mq.store.Sleep(ctx, s.id, l.opts.Channels); err != nil {
			return err
		}
		// Whoever enqueued just before did not see that we sleep: look again, and
		// a few times more, for transactions that were open.
		l.listed, l.look, l.settling = s, true, 3
		return nil
	case l.settling > 0:
		wait = min(wait, 100*time.Millisecond<<(2*(3-l.settling)))
		l.settling--
	}
	if !l.nextDue.IsZero() {
		wait = min(wait, max(time.Until(l.nextDue), time.Millisecond))
	}
	if l.slots.holds() {
		wait = min(wait, hoard)
	}
	if l.askAgain > 0 {
		wait = min(wait, l.untilAsk())
	}
	// Not all at once, where many workers started together.
	if wait == l.opts.PollInterval {
		wait -= rand.N(wait/10 + 1)
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	var lost <-chan struct{}
	if l.session != nil {
		lost = l.session.ctx.Done()
	}
	select {
	case <-ctx.Done():
	case <-l.ear.rung:
		l.looked = time.Now() // there was nothing else a moment ago: straight to the claim
		l.hear()
		l.look = l.look || l.nextLane() == nil
	case <-l.registry:
		l.registry = l.mq.registry.changed()
		l.look = true
		return l.mq.Deploy(ctx)
	case <-lost:
	case <-t.C:
		l.look = true
	}
	return nil
}

// unlist tells that nobody needs to notify this worker.
func (l *claimLoop) unlist() {
	s := l.listed
	if s == nil {
		return
	}
	l.listed = nil
	ctx, cancel := context.WithTimeout(context.WithoutCancel(l.values), time.Second)
	defer cancel()
	if err := l.mq.store.Wake(ctx, s.id); err != nil {
		l.mq.log.Debug("bearmq: a worker stays listed as asleep", "daemon", l.name, "error", err)
	}
}
