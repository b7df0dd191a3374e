package model

import (
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/bearmq/bearmq/internal/invariant"
	"github.com/bearmq/bearmq/internal/store"
)

// verify compares the database with the model.
func (m *machine) verify(t *rapid.T) {
	rows, err := m.pool.Query(m.ctx, m.sql(`SELECT s.id, s.state, s.attempt, s.losses,
		(SELECT count(*) FROM bearmq.attempt_error e WHERE e.job_id = s.id) AS failures FROM bearmq.job_state s ORDER BY s.id`))
	m.check(t, err)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
	m.check(t, err)
	m.check(t, m.compare(all))
	m.check(t, invariant.CheckRunning(m.ctx, m.pool, m.schema))

	work, err := m.store.FindWork(m.ctx, nil, []string{"work"}, true, 0)
	m.check(t, err)
	for lane, id := range m.lanes {
		w := store.LaneWork{}
		for _, x := range work {
			if x.Lane == id {
				w = x
			}
		}
		switch next, due := m.nextInLog(lane), m.nextDue(ask{lane: lane, alone: true, named: true}); {
		case m.paused[lane] && w.Lane != 0:
			m.fail(t, errors.New("work is found in a paused channel"))
		case m.paused[lane]:
		case next != nil && !w.Log:
			m.fail(t, fmt.Errorf("no work is found in the log, where %v is", next))
		case due != nil && !w.Due:
			m.fail(t, fmt.Errorf("no due work is found, %v is due", due))
		}
	}
}

// drain ends whatever is open, runs all jobs, and compares for the last time.
func (m *machine) drain(t *rapid.T) {
	m.say("everything is drained")
	for _, a := range m.actors {
		if a.open != nil {
			m.check(t, a.open.db.Commit(m.ctx))
			a.open.committed, a.open = m.step, nil
		}
		if a.tx != nil {
			m.check(t, a.tx.Rollback(m.ctx))
			a.tx, a.entry = nil, nil
		}
		m.die(t, a)
	}
	m.recovered(t)
	m.pass(t)
	a := m.actors[0]
	m.begin(t, a)
	a.claims = nil
	for lane := range m.lanes {
		m.setPaused(t, lane, false)
	}
	for rounds := 0; slices.ContainsFunc(m.there(), func(j *job) bool { return j.place != done }); rounds++ {
		if rounds > 20+2*len(m.jobs) {
			m.fail(t, errors.New("jobs are stuck"))
		}
		for lane := range m.lanes {
			m.claimed(t, a, ask{lane: lane, n: 8, each: 3})
			m.claimed(t, a, ask{lane: lane, n: 8, each: 3, due: true, alone: true, named: true})
			var ends []ending
			for heads := a.heads(); len(heads) > 0; heads = a.heads() {
				ends = append(ends, a.ends(heads[0], verdicts[0])...)
			}
			if ends != nil {
				m.finished(t, a, ends)
			}
		}
	}
	m.verify(t)
	m.check(t, invariant.Check(m.ctx, m.pool, m.schema))
}
