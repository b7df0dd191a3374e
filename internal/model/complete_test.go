package model

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"pgregory.net/rapid"

	"github.com/bearmq/bearmq/internal/store"
)

// completeTx completes a job in a transaction that stays open.
func (m *machine) completeTx(t *rapid.T) {
	a := m.actor(t, func(a *actor) bool {
		return a.tx == nil && slices.ContainsFunc(a.heads(), func(e *entry) bool { return !e.completed })
	})
	e := pick(t, "job", slices.DeleteFunc(a.heads(), func(e *entry) bool { return e.completed }))
	l := e.claim.lease
	e.claim.started = true
	m.say("S%d: %v of %v begins a transaction, CompleteTx", a.session.n, e.job, l)
	tx, err := m.pool.Begin(m.ctx)
	m.check(t, err)
	err = m.store.CompleteTx(m.ctx, tx, l.session.id, l.id, l.nonce, e.id, e.group, e.got.Attempt, time.Millisecond, nil)
	if !l.alive || l.session.dead || l.unlocked[e.group] {
		_ = tx.Rollback(m.ctx)
		if !errors.Is(err, store.ErrLeaseLost) {
			m.fail(t, fmt.Errorf("CompleteTx must say that the lease was lost: %w", err))
		}
		return
	}
	a.tx, a.entry, e.open = tx, e, true
	m.check(t, err)
}

func completing(a *actor) bool { return a.tx != nil }

func (m *machine) commitTx(t *rapid.T) {
	a := m.actor(t, completing)
	e := a.entry
	m.say("S%d: CompleteTx of %v commits", a.session.n, e.job)
	m.check(t, a.tx.Commit(m.ctx))
	e.open, e.completed = false, true
	e.place, e.settling = done, true
	e.claim.old[e.group] = false
	m.completed(t, a, true)
}

func (m *machine) rollbackTx(t *rapid.T) {
	a := m.actor(t, completing)
	m.say("S%d: CompleteTx of %v rolls back", a.session.n, a.entry.job)
	m.check(t, a.tx.Rollback(m.ctx))
	a.entry.open = false
	m.completed(t, a, false)
}

func (m *machine) completed(t *rapid.T, a *actor, want bool) {
	id, nonce := a.entry.id, a.entry.claim.nonce
	a.tx, a.entry = nil, nil
	done, err := m.store.Completing(m.ctx, id, nonce)
	m.check(t, err)
	if done != want {
		m.fail(t, fmt.Errorf("Completing says %v", done))
	}
}
