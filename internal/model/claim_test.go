package model

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"pgregory.net/rapid"

	"github.com/bearmq/bearmq/internal/store"
)

// A claim is what its worker knows of it: it does not see what becomes of its lease.
type claim struct {
	*lease
	rest    []*entry // that have not ended
	started bool
}

// An entry is a job of a claim.
type entry struct {
	*job
	claim     *claim
	got       store.ClaimedJob
	open      bool // its CompleteTx is not committed yet
	completed bool
}

// worker draws one that claims, seldom one whose session is dead.
func (m *machine) worker(t *rapid.T) *actor {
	zombies := rapid.IntRange(0, 7).Draw(t, "zombies") == 7
	return m.actor(t, func(a *actor) bool { return zombies || !a.session.dead })
}

// An ask is what is asked of a lane.
type ask struct {
	lane, n, each int  // of one group at most each
	due           bool // due tickets; else the log
	alone         bool // also one that runs alone
	named         bool // also jobs that were parked
	room          int  // for how many of them, 0: any number
	on            bool // only what is due since the last one that was handed out
}

func (q ask) String() string {
	words := []string{"the log"}
	if q.due {
		words[0] = "due jobs"
	}
	if q.on {
		words = append(words, "further on")
	}
	if q.alone {
		words = append(words, "also one that runs alone")
	}
	if q.named {
		words = append(words, "also parked ones")
	}
	if q.room > 0 {
		words[len(words)-1] += fmt.Sprintf(", but %d", q.room)
	}
	return fmt.Sprintf("%s of %s, %d and %d of a group", strings.Join(words, ", "), "xy"[q.lane:q.lane+1], q.n, q.each)
}

func (m *machine) claimLog(t *rapid.T) {
	q := ask{lane: m.lane(t, func(j *job) bool { return j.place == ordered })}
	a := m.worker(t)
	q.n, q.each = rapid.IntRange(1, 4).Draw(t, "n"), rapid.IntRange(1, 3).Draw(t, "each")
	m.claimed(t, a, q)
}

func (m *machine) claimDue(t *rapid.T) {
	q := ask{due: true, lane: m.lane(t, func(j *job) bool { return j.place == apart })}
	a := m.worker(t)
	q.n = 2 * rapid.IntRange(1, 2).Draw(t, "n") // an odd number would be halved at random
	q.each = rapid.IntRange(1, 3).Draw(t, "each")
	q.alone, q.named, q.on = !chance.Draw(t, "not alone"), !chance.Draw(t, "not parked"), rapid.IntRange(0, 3).Draw(t, "on") == 3
	if q.named {
		q.room = rapid.IntRange(0, 1).Draw(t, "room")
	}
	m.claimed(t, a, q)
}

// ask makes a claim.
func (m *machine) ask(s *session, q ask) (*store.Claim, error) {
	if !q.due {
		return m.store.ClaimLog(m.ctx, m.lanes[q.lane], s.id, m.nonce, q.n, q.each)
	}
	var (
		names []string
		rooms []int32
		from  time.Time
	)
	if q.named {
		names = []string{"work"}
	}
	if q.room > 0 {
		rooms = []int32{int32(q.room)}
	}
	if q.on {
		from = m.until[q.lane]
	}
	c, err := m.store.ClaimDue(m.ctx, m.lanes[q.lane], s.id, m.nonce, q.n, q.each, names, rooms, q.alone, from)
	if err == nil && !c.Until.IsZero() {
		m.until[q.lane] = c.Until
	}
	return c, err
}

// claimed makes a claim and takes what it brings.
func (m *machine) claimed(t *rapid.T, a *actor, q ask) {
	m.nonce++
	next := m.nextInLog(q.lane)
	if q.due {
		next = m.nextDue(q)
	}
	c, err := m.ask(a.session, q)
	l := &lease{n: len(m.leases) + 1, nonce: m.nonce, session: a.session, lane: q.lane, alive: true, old: map[string]bool{}, unlocked: map[string]bool{}}
	words := []string{}
	if err == nil {
		words = append(words, string(c.Status))
		l.id = c.Lease
		for _, j := range c.Jobs {
			words = append(words, fmt.Sprint(m.find(j.ID)))
		}
		if c.Status == store.Claimed {
			words[0] = l.String() + ":"
		}
	}
	m.say("S%d claims %v: %s", a.session.n, q, strings.Join(words, " "))
	m.check(t, err)
	switch {
	case m.paused[q.lane]:
		m.status(t, c, store.Paused)
	case a.session.dead:
		m.status(t, c, store.Expired)
	case next != nil:
		m.status(t, c, store.Claimed, store.Step)
	default:
		m.status(t, c, store.Claimed, store.Step, store.Empty)
	}
	if c.Status != store.Claimed {
		return
	}
	m.check(t, m.model.claimed(l, c.Jobs, q))
	own := &claim{lease: l}
	for i, j := range l.jobs {
		own.rest = append(own.rest, &entry{job: j, claim: own, got: c.Jobs[i]})
	}
	a.claims = append(a.claims, own)
}

func (m *machine) status(t *rapid.T, c *store.Claim, want ...store.ClaimStatus) {
	switch {
	case !slices.Contains(want, c.Status):
		m.fail(t, fmt.Errorf("the claim says %q, not %q", c.Status, want))
	case (c.Status == store.Claimed) != (len(c.Jobs) > 0):
		m.fail(t, fmt.Errorf("the claim says %q and brings %d jobs", c.Status, len(c.Jobs)))
	}
}

// giveBack returns a claim whose answer was lost: nothing of it has started.
func (m *machine) giveBack(t *rapid.T) {
	fresh := func(c *claim) bool { return !c.started }
	a := m.actor(t, func(a *actor) bool { return slices.ContainsFunc(a.claims, fresh) })
	c := pick(t, "claim", slices.DeleteFunc(slices.Clone(a.claims), func(c *claim) bool { return !fresh(c) }))
	m.say("S%d gives %v back, of which it knows nothing", a.session.n, c.lease)
	m.check(t, m.store.ReturnClaim(m.ctx, c.session.id, c.nonce))
	if c.alive {
		m.taken(c.lease, false)
	}
	a.claims = slices.DeleteFunc(a.claims, func(x *claim) bool { return x == c })
}

// giveBackFirst returns a claim that is made only afterwards: it was on its way.
func (m *machine) giveBackFirst(t *rapid.T) {
	q := ask{lane: m.lane(t, func(j *job) bool { return j.place == ordered }), n: 1, each: 1}
	a := m.worker(t)
	m.nonce++
	m.say("S%d gives a claim back of %v, then it is made", a.session.n, q)
	m.check(t, m.store.ReturnClaim(m.ctx, a.session.id, m.nonce))
	c, err := m.ask(a.session, q)
	m.check(t, err)
	if m.paused[q.lane] {
		m.status(t, c, store.Paused)
	} else {
		m.status(t, c, store.Expired)
	}
}
