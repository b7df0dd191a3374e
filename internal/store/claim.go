package store

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// ClaimStatus is what a claim says of its lane.
type ClaimStatus string

// What a claim found.
const (
	Claimed ClaimStatus = "claimed"
	Step    ClaimStatus = "step"    // rows were read, none of them can run now: go on
	Empty   ClaimStatus = "empty"   // nothing
	Locked  ClaimStatus = "locked"  // somebody else is claiming from this lane: ask again
	Paused  ClaimStatus = "paused"  // nothing, until it is resumed
	Expired ClaimStatus = "expired" // the session is dead
)

// Claim is the answer to one claim.
type Claim struct {
	Status ClaimStatus
	Lease  int64
	Nonce  int64
	Read   int       // rows of the log or tickets that were looked at: as many as were asked for means that there may be more
	Until  time.Time // of due tickets: the time of the last one handed out, to go on from
	Jobs   []ClaimedJob
	// Cancel says that some jobs are to be cancelled, perhaps none of these: ask Cancelled.
	Cancel bool
}

// ClaimedJob is one job that was handed out. The jobs of a group stand in its order.
type ClaimedJob struct {
	ID        int64
	Token     int64 // of the group, 0 without one
	CreatedAt time.Time
	Attempt   int16
	Losses    int16
	Ticket    bool // it has one
	Alone     bool // it may be what kills its process
	Name      string
	Group     string
	Payload   []byte
	Options   []byte
}

// ClaimLog takes up to n rows of a lane's log; of one group at most each.
func (s *Store) ClaimLog(ctx context.Context, lane int32, session uuid.UUID, nonce int64, n, each int) (*Claim, error) {
	return s.claim(ctx, "claim_log", nonce, lane, session, nonce, int32(n), int32(each))
}

// ClaimDue takes up to n tickets of a lane that are due, or wait for one of names, of each as many as rooms says, nil for any
// number; with alone also one that runs alone. It looks at tickets due since from.
func (s *Store) ClaimDue(ctx context.Context, lane int32, session uuid.UUID, nonce int64, n, each int, names []string, rooms []int32, alone bool,
	from time.Time) (*Claim, error) {
	var f *time.Time
	if !from.IsZero() {
		f = &from
	}
	return s.claim(ctx, "claim_due", nonce, lane, session, nonce, int32(n), int32(each), names, rooms, alone, f)
}

func (s *Store) claim(ctx context.Context, query string, nonce int64, args ...any) (*Claim, error) {
	c := &Claim{Nonce: nonce, Status: Empty}
	header := true
	err := s.call(ctx, query, func(rows pgx.Rows) error {
		var (
			id, token       *int64
			created         *time.Time
			attempt, losses int16
			ticket, alone   *bool
			name, group     *string
			payload, opts   []byte
		)
		if err := rows.Scan(&id, &token, &created, &attempt, &losses, &ticket, &alone, &name, &group, &payload, &opts); err != nil {
			return err
		}
		if header {
			header = false
			c.Status, c.Lease, c.Read = ClaimStatus(*name), deref(id), int(deref(token))
			c.Until, c.Cancel = deref(created), deref(ticket)
			c.Jobs = make([]ClaimedJob, 0, c.Read)
			return nil
		}
		c.Jobs = append(c.Jobs, ClaimedJob{ID: *id, Token: deref(token), CreatedAt: *created, Attempt: attempt, Losses: losses,
			Ticket: *ticket, Alone: *alone, Name: *name, Group: deref(group), Payload: payload, Options: opts})
		return nil
	}, args...)
	if err != nil {
		return nil, err
	}
	return c, nil
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// ReturnClaim gives back what a claim took whose answer was lost. It is safe to call where the claim took nothing.
func (s *Store) ReturnClaim(ctx context.Context, session uuid.UUID, nonce int64) error {
	return s.call(ctx, "return_lease", nil, session, nonce)
}

// LaneWork is what FindWork knows of one lane.
type LaneWork struct {
	Lane     int32
	Channel  string
	Priority int16
	Log      bool           // its log has rows beyond the cursor
	Due      bool           // tickets are due
	NextDue  *time.Duration // when the next ticket falls due
}

// FindWork looks at every lane of the channels, nil for all, that is not paused. It is a read. It looks back for due
// tickets as far as back, 0 for all.
func (s *Store) FindWork(ctx context.Context, channels, names []string, alone bool, back time.Duration) ([]LaneWork, error) {
	var b *time.Duration
	if back > 0 {
		b = &back
	}
	var work []LaneWork
	err := s.call(ctx, "find_work", func(rows pgx.Rows) error {
		var (
			w    LaneWork
			next *float64
		)
		if err := rows.Scan(&w.Lane, &w.Channel, &w.Priority, &w.Log, &w.Due, &next); err != nil {
			return err
		}
		if next != nil {
			d := time.Duration(*next * float64(time.Second))
			w.NextDue = &d
		}
		s.learn(w.Lane, w.Channel)
		work = append(work, w)
		return nil
	}, channels, names, alone, b)
	return work, err
}
