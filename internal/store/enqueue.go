package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// NewJob is a job to be written.
type NewJob struct {
	ID      int64 // set when it is written
	Lane    int32
	Name    string
	Payload []byte // JSON
	Group   string // "": none
	Options []byte // JSON; nil where the definition's defaults hold
	Delay   time.Duration
	RunAt   time.Time // zero: none
}

func (j *NewJob) delayed() bool { return j.Delay > 0 || !j.RunAt.IsZero() }

// CopyThreshold is the number of jobs above which Copy is faster than Insert.
const CopyThreshold = 64

// Insert writes jobs in one statement and sets their ids, which rise in their order.
func (s *Store) Insert(ctx context.Context, db DB, jobs []NewJob) error {
	if len(jobs) == 0 {
		return nil
	}
	pool, ok := db.(*pgxpool.Pool)
	if !ok {
		// In the caller's transaction a lost connection means that nothing was written.
		query, err := s.insert(ctx, db, jobs)
		return wrap(query, err)
	}
	conn, err := acquire(ctx, pool)
	if err != nil {
		return wrap("enqueue", err)
	}
	defer conn.Release()
	query, err := s.insert(ctx, conn, jobs)
	return wrapWrite(query, err)
}

func (s *Store) insert(ctx context.Context, db DB, jobs []NewJob) (query string, err error) {
	if len(jobs) == 1 && !jobs[0].delayed() {
		j := &jobs[0]
		err := db.QueryRow(ctx, s.text("enqueue"), j.Lane, j.Name, string(j.Payload), null(j.Group), jsonText(j.Options), s.Channel(j.Lane)).Scan(&j.ID, nil)
		return "enqueue", err
	}
	n := len(jobs)
	lanes, names, payloads := make([]int32, n), make([]string, n), make([]string, n)
	groups, options := make([]*string, n), make([]*string, n)
	delays, times := make([]*float64, n), make([]*time.Time, n)
	for i := range jobs {
		j := &jobs[i]
		lanes[i], names[i], payloads[i], groups[i] = j.Lane, j.Name, string(j.Payload), null(j.Group)
		options[i] = jsonText(j.Options)
		switch {
		case !j.RunAt.IsZero():
			times[i] = &j.RunAt
		case j.Delay > 0:
			seconds := j.Delay.Seconds()
			delays[i] = &seconds
		}
	}
	rows, err := db.Query(ctx, s.text("enqueue_many"), lanes, names, payloads, groups, options, delays, times)
	if err == nil {
		var (
			i  int
			id int64
		)
		_, err = pgx.ForEachRow(rows, []any{&id, nil}, func() error { jobs[i].ID = id; i++; return nil })
	}
	return "enqueue_many", err
}

// Copy writes jobs by COPY and sets their ids, which rise in their order. It is several statements: the caller is in a
// transaction.
func (s *Store) Copy(ctx context.Context, db DB, jobs []NewJob) error {
	if len(jobs) == 0 {
		return nil
	}
	rows, err := db.Query(ctx, s.text("draw_ids"), int32(len(jobs)))
	if err != nil {
		return wrap("draw_ids", err)
	}
	var (
		id  int64
		now time.Time
		n   int
	)
	if _, err = pgx.ForEachRow(rows, []any{&id, &now}, func() error { jobs[n].ID = id; n++; return nil }); err != nil {
		return wrap("draw_ids", err)
	}

	// created_at is given: COPY writes rows one by one, at more cost, where a column's default is volatile.
	table := pgx.Identifier{s.schema, "job"}
	var ready, later []int
	lanes := map[int32]bool{}
	for i := range jobs {
		lanes[jobs[i].Lane] = true
		if jobs[i].delayed() {
			later = append(later, i)
		} else {
			ready = append(ready, i)
		}
	}
	row := func(i int) []any {
		j := &jobs[i]
		return []any{j.ID, now, j.Lane, j.Name, j.Payload, null(j.Group), j.Options}
	}
	columns := []string{"id", "created_at", "lane", "name", "payload", "group_key", "options"}
	if len(ready) > 0 {
		if _, err := db.CopyFrom(ctx, table, columns, pgx.CopyFromSlice(len(ready), func(i int) ([]any, error) {
			return row(ready[i]), nil
		})); err != nil {
			return wrap("copy job", err)
		}
	}
	if len(later) > 0 {
		if _, err := db.CopyFrom(ctx, table, append(columns, "xid"), pgx.CopyFromSlice(len(later), func(i int) ([]any, error) {
			return append(row(later[i]), nil), nil
		})); err != nil {
			return wrap("copy job", err)
		}
		if _, err := db.CopyFrom(ctx, pgx.Identifier{s.schema, "ticket"}, []string{"job_id", "lane", "name", "group_key", "state", "run_at"},
			pgx.CopyFromSlice(len(later), func(i int) ([]any, error) {
				j := &jobs[later[i]]
				at := j.RunAt
				if at.IsZero() {
					at = now.Add(j.Delay)
				}
				if at.Before(now) {
					at = now // who looks for due jobs does not look far back
				}
				return []any{j.ID, j.Lane, j.Name, null(j.Group), 'd', at}, nil
			})); err != nil {
			return wrap("copy ticket", err)
		}
	}
	list := make([]int32, 0, len(lanes))
	for lane := range lanes {
		list = append(list, lane)
	}
	_, err = db.Exec(ctx, s.text("notify_lanes"), list)
	return wrap("notify_lanes", err)
}

// Lane returns the lane of a channel at a priority. The first use of a channel makes it, on a connection of our own: in
// the caller's transaction two producers would wait for each other.
func (s *Store) Lane(ctx context.Context, channel string, priority int16) (int32, error) {
	key := laneKey{channel, priority}
	if lane, ok := s.lane(key); ok {
		return lane, nil
	}
	conn, err := s.Connect(ctx)
	if err != nil {
		return 0, fmt.Errorf("open a connection to make channel %q: %w", channel, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return s.makeLane(ctx, conn, key)
}

func (s *Store) lane(key laneKey) (lane int32, ok bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	lane, ok = s.lanes[key]
	return lane, ok
}

func (s *Store) makeLane(ctx context.Context, db DB, key laneKey) (lane int32, err error) {
	var c cluster
	if err := db.QueryRow(ctx, s.text("make_lane"), key.channel, key.priority).Scan(&lane, &c.restored, &c.stored, &c.found); err != nil {
		return 0, wrap("make_lane", err)
	}
	if err := c.check(); err != nil {
		return 0, err
	}
	s.mu.Lock()
	s.lanes[key], s.channels[lane] = lane, key.channel
	s.mu.Unlock()
	return lane, nil
}

// Channel returns the channel of a lane that this store has met, or "".
func (s *Store) Channel(lane int32) string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.channels[lane]
}

func (s *Store) learn(lane int32, channel string) {
	s.mu.RLock()
	known := s.channels[lane] == channel
	s.mu.RUnlock()
	if !known {
		s.mu.Lock()
		s.channels[lane] = channel
		s.mu.Unlock()
	}
}

// Result reads a job's state, and what it left.
func (s *Store) Result(ctx context.Context, id int64) (state string, result []byte, errText string, err error) {
	var attempt int16
	err = s.pool.QueryRow(ctx, s.text("result"), id).Scan(&state, &result, &errText, &attempt)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil, "", ErrJobNotFound
	}
	return state, result, errText, wrap("result", err)
}

func null(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

// jsonText is JSON for a parameter. As bytes it would be sent as a bytea where pgx does not ask for the parameters' types, as
// behind a pooler.
func jsonText(text []byte) *string {
	if text == nil {
		return nil
	}
	s := string(text)
	return &s
}
