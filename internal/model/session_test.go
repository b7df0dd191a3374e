package model

import (
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"
)

// begin gives an actor a new session.
func (m *machine) begin(t *rapid.T, a *actor) {
	m.sessions++
	a.session = &session{n: m.sessions, id: uuid.New(), told: []int64{}}
	m.check(t, m.store.BeginSession(m.ctx, m.pool, a.session.id, time.Hour, "host", 1, nil))
}

func (m *machine) renew(t *rapid.T) {
	a, lost := m.actor(t, anybody), chance.Draw(t, "lost")
	if lost {
		m.say("S%d is renewed, the answer is lost", a.session.n)
	} else {
		m.say("S%d is renewed", a.session.n)
	}
	m.renewed(t, a.session, lost)
}

func (m *machine) renewed(t *rapid.T, s *session, lost bool) {
	revoked, alive, err := m.store.RenewSession(m.ctx, m.pool, s.id, s.told)
	m.check(t, err)
	for _, id := range s.told {
		if i := slices.Index(s.revoked, id); alive && i >= 0 { // once: it may have been taken away again since
			s.revoked = slices.Delete(s.revoked, i, i+1)
		}
	}
	if alive == s.dead || alive && !equal(revoked, s.revoked) {
		m.fail(t, fmt.Errorf("renewed: alive %v, told of %d jobs that were taken away; it should have been of %d", alive, len(revoked), len(s.revoked)))
	}
	if alive && !lost {
		s.told = revoked
	}
}

func equal(a, b []int64) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// expire lets a session's time run out. Its worker does not know.
func (m *machine) expire(t *rapid.T) {
	a := m.actor(t, func(a *actor) bool { return !a.session.dead })
	m.say("S%d expires", a.session.n)
	m.die(t, a)
}

func (m *machine) die(t *rapid.T, a *actor) {
	m.exec(t, `UPDATE bearmq.session SET expires_at = clock_timestamp(), ttl = '1 microsecond', dead = true WHERE id = $1`, a.session.id)
	a.session.dead = true
}

func (m *machine) newSession(t *rapid.T) {
	a := m.actor(t, func(a *actor) bool { return a.session.dead })
	m.say("S%d is followed by S%d", a.session.n, m.sessions+1)
	m.begin(t, a)
}
