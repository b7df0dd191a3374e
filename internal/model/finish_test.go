package model

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/bearmq/bearmq/internal/store"
)

// heads are the jobs of an actor that may end next.
func (a *actor) heads() (heads []*entry) {
	for _, c := range a.claims {
		seen := map[string]bool{}
		for _, e := range c.rest {
			if !e.open && (e.group == "" || !seen[e.group]) {
				heads = append(heads, e)
			}
			seen[e.group] = true
		}
	}
	return heads
}

func busy(a *actor) bool { return len(a.heads()) > 0 }

// A verdict is what a worker makes of an attempt.
type verdict struct {
	word  string
	op    store.Op
	delay time.Duration
	hold  bool // the job keeps its group
	stop  bool // the rest of its mailbox goes back
}

var verdicts = []verdict{
	{word: "is done"},
	{word: "fails", op: store.OpFail},
	{word: "goes back", op: store.OpBack, stop: true},
	{word: "retries", op: store.OpRetry},
	{word: "retries in an hour", op: store.OpRetry, delay: time.Hour},
	{word: "retries in an hour and holds", op: store.OpRetry, delay: time.Hour, hold: true, stop: true},
	{word: "snoozes", op: store.OpAgain},
	{word: "snoozes for an hour and holds", op: store.OpAgain, delay: time.Hour, hold: true, stop: true},
	{word: "is parked", op: store.OpPark, hold: true, stop: true},
}

// finish ends some attempts of one worker in one call.
func (m *machine) finish(t *rapid.T) {
	a := m.actor(t, busy)
	var ends []ending
	for range rapid.IntRange(1, 3).Draw(t, "ends") {
		// A job stands in a call once: an attempt whose group was unlocked does not go together with the next one.
		heads := slices.DeleteFunc(a.heads(), func(h *entry) bool {
			return slices.ContainsFunc(ends, func(e ending) bool {
				return e.job == h.job || e.group != "" && e.group == h.group && e.claim != h.claim
			})
		})
		if len(heads) == 0 {
			break
		}
		e := pick(t, "job", heads)
		v := verdict{word: "is settled", op: store.OpSettled}
		if !e.completed {
			v = pick(t, "verdict", verdicts)
		}
		ends = append(ends, a.ends(e, v)...)
	}
	m.finished(t, a, ends)
}

// An ending is how an attempt ended, and whether its group is given up.
type ending struct {
	*entry
	verdict
	release bool
	holder  *job
	written bool // the database took it
}

// ends is the end of an attempt, with what goes back because of it.
func (a *actor) ends(e *entry, v verdict) []ending {
	c := e.claim
	c.started = true
	ends := []ending{{entry: e, verdict: v}}
	var rest []*entry
	left := 0
	for _, r := range c.rest {
		switch {
		case r == e:
		case v.stop && e.group != "" && r.group == e.group:
			ends = append(ends, ending{entry: r, verdict: verdict{word: "goes back", op: store.OpBack}})
		default:
			rest = append(rest, r)
			if r.group == e.group {
				left++
			}
		}
	}
	c.rest = rest
	if e.group != "" && left == 0 {
		ends[0].release = true
		if v.hold {
			ends[0].holder = e.job
		}
	}
	return ends
}

// finished writes endings, and wants of the answer what the model says.
func (m *machine) finished(t *rapid.T, a *actor, ends []ending) {
	var claims []*claim
	for _, e := range ends {
		if !slices.Contains(claims, e.claim) {
			claims = append(claims, e.claim)
		}
	}
	slices.SortFunc(claims, func(a, b *claim) int { return cmp.Compare(a.id, b.id) })
	call := &store.Finish{Session: a.session.id}
	for _, c := range claims {
		call.Leases = append(call.Leases, store.FinishLease{ID: c.id, Nonce: c.nonce, Closed: len(c.rest) == 0})
	}
	var words []string
	for _, e := range ends {
		words = append(words, fmt.Sprintf("%v of %v %s", e.job, e.claim.lease, e.word))
		i := slices.Index(claims, e.claim)
		if e.op == "" {
			call.Done = append(call.Done, store.FinishDone{ID: e.id, Lease: i, Attempt: e.got.Attempt, Ticket: e.got.Ticket})
		} else {
			call.Rest = append(call.Rest, store.FinishRest{ID: e.id, Lease: i, Op: e.op, Attempt: e.got.Attempt, Error: "x", Delay: e.delay})
		}
		if e.release {
			g := store.FinishGroup{Key: e.group, Lease: i}
			if e.holder != nil {
				g.Holder = e.holder.id
			}
			call.Groups = append(call.Groups, g)
		}
	}
	m.say("S%d finishes: %s", a.session.n, strings.Join(words, ", "))
	lost, refused := map[int64]bool{}, map[int64]bool{}
	for i := range ends {
		e := &ends[i]
		l := e.claim.lease
		switch {
		case !l.alive:
			lost[l.id] = true
			continue
		case l.unlocked[e.group]:
			refused[e.id] = true
			if !e.settling {
				continue
			}
		}
		m.ended(e.job, e.op, e.delay)
		e.written = true
	}
	for _, e := range ends {
		if e.release && e.claim.alive {
			m.release(e.claim.lease, e.group, e.holder)
		}
	}
	for _, c := range claims {
		c.alive = c.alive && len(c.rest) > 0
	}
	a.claims = slices.DeleteFunc(a.claims, func(c *claim) bool { return len(c.rest) == 0 })
	got, err := m.store.Finish(m.ctx, call)
	m.check(t, err)
	if !same(got.Lost, lost) || !same(got.Refused, refused) {
		m.fail(t, fmt.Errorf("%d leases were lost, and %d jobs refused; it should have been %d and %d",
			len(got.Lost), len(got.Refused), len(lost), len(refused)))
	}
	a.finished, a.ended = call, ends
}

func same(a, b map[int64]bool) bool {
	for id := range a {
		if !b[id] {
			return false
		}
	}
	return len(a) == len(b)
}

// replay makes the last finish of a worker again, as after an answer that was lost.
func (m *machine) replay(t *rapid.T) {
	a := m.actor(t, func(a *actor) bool { return a.finished != nil })
	m.say("S%d makes its last finish again", a.session.n)
	for _, e := range a.ended {
		e.claim.old[e.group] = false // for the next one of the mailbox it counts from now
	}
	a.finished.Replay = true
	before := m.content(t)
	got, err := m.store.Finish(m.ctx, a.finished)
	m.check(t, err)
	for _, e := range a.ended {
		if e.written && e.op == "" && !e.deleted && got.Lost[e.claim.id] && !got.Settled[e.id] {
			m.fail(t, fmt.Errorf("%v was written, and is called lost", e.job))
		}
	}
	for i, line := range m.content(t) {
		if i >= len(before) || line != before[i] {
			m.fail(t, errors.New("a finish that was made again has changed something"))
		}
	}
}

// content is what a replay must not change.
func (m *machine) content(t *rapid.T) []string {
	rows, err := m.pool.Query(m.ctx, m.sql(`
		SELECT 'outcome ' || o::text FROM bearmq.outcome o UNION ALL SELECT 'ticket ' || t::text FROM bearmq.ticket t
		UNION ALL SELECT 'lease ' || (l.id, l.finished, l.unlocked)::text FROM bearmq.lease l
		UNION ALL SELECT 'anchor ' || a::text FROM bearmq.group_anchor a UNION ALL SELECT 'group ' || g::text FROM bearmq.job_group g UNION ALL SELECT 'error ' || e::text FROM bearmq.attempt_error e
		UNION ALL SELECT 'job ' || j.id FROM bearmq.job j ORDER BY 1`))
	m.check(t, err)
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	m.check(t, err)
	return append(lines, "end")
}
