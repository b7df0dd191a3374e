package model

import (
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/bearmq/bearmq/internal/store"
)

// A producing is a transaction that is open.
type producing struct {
	*tx
	db pgx.Tx
}

// draw makes jobs to be enqueued.
func (m *machine) draw(t *rapid.T, tx *tx) (jobs []*job, rows []store.NewJob) {
	for range rapid.IntRange(1, 3).Draw(t, "jobs") {
		j := &job{n: len(m.jobs) + 1, tx: tx, attempt: 1}
		j.group = rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "group")
		j.lane = rapid.IntRange(0, 1).Draw(t, "lane")
		r := store.NewJob{Lane: m.lanes[j.lane], Name: "work", Payload: fmt.Append(nil, j.n), Group: j.group}
		if rapid.IntRange(0, 4).Draw(t, "delay") == 4 {
			j.place, j.later, r.Delay = apart, true, time.Hour
		}
		m.jobs = append(m.jobs, j)
		jobs, rows = append(jobs, j), append(rows, r)
	}
	return jobs, rows
}

func told(jobs []*job) string {
	words := make([]string, len(jobs))
	for i, j := range jobs {
		words[i] = fmt.Sprintf("%v in %s", j, "xy"[j.lane:j.lane+1])
		if j.later {
			words[i] += " in an hour"
		}
	}
	return strings.Join(words, ", ")
}

// enqueue is an enqueue in a transaction of its own.
func (m *machine) enqueue(t *rapid.T) {
	m.txs++
	x := &tx{n: m.txs, wrote: m.step + 1, committed: m.step + 1}
	jobs, rows := m.draw(t, x)
	m.say("enqueue %s", told(jobs))
	m.check(t, m.store.Insert(m.ctx, m.pool, rows))
	for i := range rows {
		jobs[i].id = rows[i].ID
	}
}

// open begins a transaction, which may write something before it enqueues.
func (m *machine) open(t *rapid.T) {
	a := m.actor(t, func(a *actor) bool { return a.open == nil })
	db, err := m.pool.Begin(m.ctx)
	m.check(t, err)
	m.txs++
	a.open = &producing{tx: &tx{n: m.txs}, db: db}
	if chance.Draw(t, "early") {
		m.say("T%d begins and takes a transaction id", m.txs)
		a.open.wrote = m.step
		_, err = db.Exec(m.ctx, "SELECT pg_current_xact_id()")
		m.check(t, err)
		return
	}
	m.say("T%d begins", m.txs)
}

func producer(a *actor) bool { return a.open != nil }

// enqueueTx enqueues in a transaction that goes on, perhaps within a savepoint, which may be rolled back.
func (m *machine) enqueueTx(t *rapid.T) {
	a := m.actor(t, producer)
	jobs, rows := m.draw(t, a.open.tx)
	write, how := m.store.Insert, "enqueues"
	if chance.Draw(t, "copy") {
		write, how = m.store.Copy, "copies"
	}
	end, within := pgx.Tx.Commit, rapid.IntRange(0, 5).Draw(t, "savepoint")
	if within == 5 {
		end, how = pgx.Tx.Rollback, how+", within a savepoint that is rolled back,"
	}
	m.say("T%d %s %s", a.open.n, how, told(jobs))
	db := a.open.db
	var err error
	if within > 3 {
		db, err = db.Begin(m.ctx)
		m.check(t, err)
	}
	m.check(t, write(m.ctx, db, rows))
	if a.open.wrote == 0 {
		a.open.wrote = m.step
	}
	for i := range rows {
		jobs[i].id = rows[i].ID
		if within == 5 {
			jobs[i].tx = &tx{committed: -1}
		}
	}
	if within > 3 {
		m.check(t, end(db, m.ctx))
	}
}

func (m *machine) commit(t *rapid.T) {
	a := m.actor(t, producer)
	m.say("T%d commits", a.open.n)
	m.check(t, a.open.db.Commit(m.ctx))
	a.open.committed = m.step
	a.open = nil
}

func (m *machine) rollback(t *rapid.T) {
	a := m.actor(t, producer)
	m.say("T%d rolls back", a.open.n)
	m.check(t, a.open.db.Rollback(m.ctx))
	a.open.committed, a.open = -1, nil
}
