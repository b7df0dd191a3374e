package model

import (
	"fmt"
	"slices"
	"time"

	"pgregory.net/rapid"

	"github.com/bearmq/bearmq/internal/store"
)

// locked tells whether an open CompleteTx keeps a lease.
func (m *machine) locked(l *lease) bool {
	return slices.ContainsFunc(m.actors[:], func(a *actor) bool { return a.entry != nil && a.entry.claim.lease == l })
}

func (m *machine) recover(t *rapid.T) {
	only(t, slices.ContainsFunc(m.leases, func(l *lease) bool { return l.alive && l.session.dead }))
	m.say("dead sessions are recovered")
	m.recovered(t)
}

func (m *machine) recovered(t *rapid.T) {
	var want []int64
	leases := map[int64]*lease{}
	for _, l := range m.leases {
		if l.alive && l.session.dead {
			want = append(want, l.id)
			leases[l.id] = l
		}
	}
	got, _, err := m.store.DeadLeases(m.ctx, 1000, nil)
	m.check(t, err)
	if !equal(want, got) {
		m.fail(t, fmt.Errorf("%d leases are dead, %d are found to be", len(want), len(got)))
	}
	for _, id := range slices.Sorted(slices.Values(want)) {
		l := leases[id]
		taken, err := m.store.Recover(m.ctx, id, maxLosses)
		m.check(t, err)
		if m.locked(l) {
			m.lost(t, taken, nil)
			continue
		}
		m.lost(t, taken, m.taken(l, true))
	}
}

// lost compares what was taken from a lease.
func (m *machine) lost(t *rapid.T, got []store.Taken, want []*job) {
	var a, b []string
	for _, x := range got {
		a = append(a, fmt.Sprintf("%v: attempt %d, loss %d, failed %v", m.find(x.Job), x.Attempt, x.Losses, x.Failed))
	}
	for _, j := range want {
		b = append(b, fmt.Sprintf("%v: attempt %d, loss %d, failed %v", j, j.attempt, j.losses, j.failed))
	}
	slices.Sort(a)
	slices.Sort(b)
	if !slices.Equal(a, b) {
		m.fail(t, fmt.Errorf("lost were %q, not %q", a, b))
	}
}

func (m *machine) unlock(t *rapid.T) {
	only(t, slices.ContainsFunc(m.leases, func(l *lease) bool { return l.alive }))
	m.say("groups that one job has held for an hour are unlocked")
	for {
		taken, err := m.store.UnlockGroups(m.ctx, time.Hour, maxLosses)
		m.check(t, err)
		var want []*job
		for _, l := range m.leases { // in the order of their ids
			if l.alive && !m.locked(l) {
				if want = m.unlocked(l); want != nil {
					break
				}
			}
		}
		m.lost(t, taken, want)
		if len(taken) == 0 {
			return
		}
	}
}

func (m *machine) pause(t *rapid.T) {
	lane := m.lane(t, func(j *job) bool { return j.place != done && !m.paused[j.lane] })
	m.say("channel %s is paused", "xy"[lane:lane+1])
	m.setPaused(t, lane, true)
}

func (m *machine) resume(t *rapid.T) {
	only(t, m.paused[0] || m.paused[1])
	m.say("all channels are resumed")
	for lane := range m.lanes {
		m.setPaused(t, lane, false)
	}
}

func (m *machine) setPaused(t *rapid.T, lane int, paused bool) {
	m.exec(t, `UPDATE bearmq.lane SET paused = $2 WHERE id = $1`, m.lanes[lane], paused)
	m.paused[lane] = paused
}

// wait lets two hours pass, through which the sessions live.
func (m *machine) wait(t *rapid.T) {
	only(t, slices.ContainsFunc(m.there(), func(j *job) bool { return j.later || j.place == held || j.place == done && !j.old }))
	m.pass(t)
}

func (m *machine) pass(t *rapid.T) {
	m.say("two hours pass")
	for _, a := range m.actors {
		m.renewed(t, a.session, false)
	}
	m.exec(t, `UPDATE bearmq.ticket SET run_at = run_at - interval '2 hours' WHERE state IN ('d', 'n')`)
	m.exec(t, `UPDATE bearmq.outcome SET finished_at = finished_at - interval '2 hours'`)
	m.exec(t, `UPDATE bearmq.lease SET created_at = created_at - interval '2 hours', progress = NULL`)
	m.twoHours()
}

func (m *machine) forget(t *rapid.T) {
	only(t, slices.ContainsFunc(m.there(), func(j *job) bool { return j.place == done }))
	keep := rapid.SampledFrom([]time.Duration{time.Hour, 1000 * time.Hour})
	completed, failed := keep.Draw(t, "completed"), keep.Draw(t, "failed")
	m.say("finished jobs are deleted: completed ones after %v, failed ones after %v", completed, failed)
	deleted, _, _, err := m.store.DeleteFinished(m.ctx, completed, failed, 0, 1000)
	m.check(t, err)
	if want := m.forgotten(completed == time.Hour, failed == time.Hour); int(deleted) != want {
		m.fail(t, fmt.Errorf("%d finished jobs were deleted, not %d", deleted, want))
	}
}

func (m *machine) collect(t *rapid.T) {
	only(t, len(m.leases) > 0)
	m.say("idle groups are collected, leftovers swept")
	_, _, err := m.store.CollectGroups(m.ctx, "", 0, 100)
	m.check(t, err)
	m.check(t, m.store.Sweep(m.ctx))
}
