package model

import (
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/bearmq/bearmq/internal/store"
)

// maxLosses is after how many losses a job fails.
const maxLosses = 3

// A place is where a job is.
type place int

const (
	ordered place = iota // in the log, or blocked behind its group: its place in the order counts
	apart                // it waits for a time, or for somebody who knows its name: the order does not count
	held                 // handed out
	done
)

// A job is what the model knows of a job.
type job struct {
	n, lane  int
	id       int64
	group    string
	tx       *tx
	place    place
	later    bool // apart, and its time has not come
	parked   bool // apart, and waits for somebody who asks for its name
	attempt  int
	losses   int
	failures int // attempts that are written down as failed
	alone    bool
	by       *lease // that holds it
	failed   bool   // done, and not well
	settling bool   // done by CompleteTx, and no finish has followed
	old      bool   // done two hours ago
	deleted  bool
}

func (j *job) String() string { return fmt.Sprintf("j%d%s", j.n, inGroup(j.group)) }

func inGroup(key string) string {
	if key == "" {
		return ""
	}
	return "(" + key + ")"
}

// A tx is a transaction that enqueues. The steps say when it first wrote and when its commit was acknowledged: 0 for not yet,
// -1 for never.
type tx struct {
	n, wrote, committed int
}

// A lease is what one claim brought.
type lease struct {
	n         int
	id, nonce int64
	session   *session
	lane      int
	jobs      []*job
	alive     bool            // neither closed, nor recovered, nor given back
	old       map[string]bool // of its groups: held for two hours by the same job
	unlocked  map[string]bool // of its groups: taken away
}

func (l *lease) String() string { return fmt.Sprintf("L%d", l.n) }

type session struct {
	n       int
	id      uuid.UUID
	dead    bool
	revoked []int64 // jobs that its next renewal must name, but for those that it has been
	told    []int64 // of
}

// A group is held by a lease, or by a job that waits, or is free.
type group struct {
	by     *lease
	holder *job
	token  int64
}

// A model says what may be, and what must be.
type model struct {
	jobs   []*job // in call order
	leases []*lease
	groups map[string]*group
	paused map[int]bool // by lane
}

func newModel() *model { return &model{groups: map[string]*group{}, paused: map[int]bool{}} }

func (m *model) group(key string) *group {
	if m.groups[key] == nil {
		m.groups[key] = &group{}
	}
	return m.groups[key]
}

// there are the jobs that are committed and not deleted.
func (m *model) there() (jobs []*job) {
	for _, j := range m.jobs {
		if j.tx.committed > 0 && !j.deleted {
			jobs = append(jobs, j)
		}
	}
	return jobs
}

func (m *model) find(id int64) *job {
	for _, j := range m.there() {
		if j.id == id {
			return j
		}
	}
	return nil
}

// before is the promised order: by call in one transaction; otherwise a must have been acknowledged before b's transaction
// first wrote.
func before(a, b *job) bool {
	if a.tx == b.tx {
		return a.n < b.n
	}
	return a.tx.committed < b.tx.wrote
}

// claimed takes what a claim brought, or says why it may not be.
func (m *model) claimed(l *lease, got []store.ClaimedJob, q ask) error {
	m.leases = append(m.leases, l)
	loners, parked, tokens, count := 0, 0, map[string]int64{}, map[string]int{}
	for _, c := range got {
		j := m.find(c.ID)
		switch {
		case j == nil:
			return fmt.Errorf("a job that does not exist was handed out")
		case j.place == held:
			return fmt.Errorf("%v was handed out, %v has it", j, j.by)
		case j.place == done:
			return fmt.Errorf("%v was handed out, it has ended", j)
		case j.place == apart && j.later:
			return fmt.Errorf("%v was handed out before its time", j)
		case j.lane != l.lane || j.group != c.Group || string(c.Payload) != fmt.Sprint(j.n):
			return fmt.Errorf("%v was handed out as one of group %q with payload %s", j, c.Group, c.Payload)
		case int(c.Attempt) != j.attempt || int(c.Losses) != j.losses || c.Alone != j.alone:
			return fmt.Errorf("%v is at attempt %d, loss %d, alone %v; handed out as at %d, %d, %v", j, j.attempt, j.losses, j.alone,
				c.Attempt, c.Losses, c.Alone)
		}
		for _, i := range m.there() {
			if j.place == ordered && i.place == ordered && i.lane == j.lane && i.group == j.group && before(i, j) {
				return fmt.Errorf("%v was handed out before %v", j, i)
			}
		}
		if j.alone {
			loners++
		}
		if j.parked {
			parked++
		}
		if j.group != "" {
			g := m.group(j.group)
			if g.by != nil && g.by != l || g.holder != nil && g.holder != j {
				return fmt.Errorf("%v was handed out, its group is held by %v %v", j, g.by, g.holder)
			}
			if tokens[j.group] == 0 {
				if c.Token <= g.token {
					return fmt.Errorf("the token of group %s did not rise at %v", j.group, j)
				}
				tokens[j.group] = c.Token
			}
			if c.Token != tokens[j.group] {
				return fmt.Errorf("%v has another token than those before it", j)
			}
			if count[j.group]++; count[j.group] > q.each || j.alone && count[j.group] > 1 {
				return fmt.Errorf("%v must not be in this mailbox", j)
			}
			*g = group{by: l, token: c.Token}
		}
		j.place, j.by, j.parked = held, l, false
		l.jobs = append(l.jobs, j)
	}
	if loners > 1 || loners > 0 && !q.alone {
		return fmt.Errorf("%d jobs that run alone were handed out", loners)
	}
	if parked > 0 && !q.named || parked > loners+q.room && q.room > 0 {
		return fmt.Errorf("%d parked jobs were handed out", parked)
	}
	return nil
}

// nextInLog is a job that a claim of the lane's log must find, or nil.
func (m *model) nextInLog(lane int) *job {
	elsewhere := map[string]bool{} // groups whose first job may be of another lane
	for _, j := range m.there() {
		if (j.place == ordered || j.place == apart) && j.lane != lane {
			elsewhere[j.group] = true
		}
	}
	for _, j := range m.there() {
		free := j.group == "" || m.group(j.group).by == nil && m.group(j.group).holder == nil && !elsewhere[j.group]
		if j.place == ordered && j.lane == lane && free {
			return j
		}
	}
	return nil
}

// nextDue is a job that a claim of due tickets must find, or nil.
func (m *model) nextDue(q ask) *job {
	for _, j := range m.there() {
		asked := (q.alone || !j.alone) && (q.named || !j.parked) && !q.on
		if j.place == apart && !j.later && j.lane == q.lane && asked && (j.group == "" || m.group(j.group).holder == j) {
			return j
		}
	}
	return nil
}

// ended is how an attempt ended, which a lease that is alive may write.
func (m *model) ended(j *job, op store.Op, delay time.Duration) {
	j.by.old[j.group] = false
	j.by, j.place, j.settling = nil, apart, false
	j.later, j.parked = delay > 0, op == store.OpPark
	switch op {
	case "", store.OpSettled:
		j.place = done
	case store.OpFail:
		j.place, j.failed = done, true
		j.failures++
	case store.OpRetry:
		j.attempt++
		j.failures++
	case store.OpBack:
		if j.group != "" {
			j.place = ordered
		}
	}
}

// release is the end of a lease's hold on a group.
func (m *model) release(l *lease, key string, holder *job) {
	if g := m.group(key); g.by == l {
		g.by, g.holder = nil, holder
	}
}

// left are the jobs that a lease still holds, by group; those without one stand under "".
func (l *lease) left() map[string][]*job {
	left := map[string][]*job{}
	for _, j := range l.jobs {
		if j.by == l && j.place == held {
			left[j.group] = append(left[j.group], j)
		}
	}
	return left
}

// lose counts a loss of a job, and says whether it was the last.
func (m *model) lose(j *job) bool {
	j.losses++
	j.alone = j.alone || j.losses >= maxLosses-1
	if j.losses < maxLosses {
		return false
	}
	j.place, j.failed = done, true
	return true
}

// taken takes everything away from a lease that is over: it was recovered, or given back before anything of it had started.
// Of a group only the first job can have started; it goes on holding the group. Returned are those that count a loss.
func (m *model) taken(l *lease, losses bool) (lost []*job) {
	l.alive = false
	for key, jobs := range l.left() {
		for i, j := range jobs {
			j.by, j.place, j.later = nil, apart, false
			if key != "" && i > 0 {
				j.place = ordered
				continue
			}
			last := false
			if losses {
				lost = append(lost, j)
				last = m.lose(j)
			}
			if key != "" && !last {
				m.release(l, key, j)
			}
		}
	}
	for _, j := range l.jobs {
		if j.by == l {
			j.by, j.settling = nil, false
		}
	}
	for key := range m.groups {
		m.release(l, key, nil) // where the last loss, or CompleteTx, has ended it
	}
	return lost
}

// unlocked takes from a lease the groups that one job has held for too long.
func (m *model) unlocked(l *lease) (lost []*job) {
	for key, jobs := range l.left() {
		if key == "" || !l.old[key] {
			continue
		}
		for i, j := range jobs {
			j.by, j.place = nil, ordered
			l.session.revoked = append(l.session.revoked, j.id)
			if i == 0 {
				lost = append(lost, j)
				m.lose(j)
			}
		}
		l.unlocked[key] = true
		m.release(l, key, nil)
	}
	return lost
}

// twoHours pass.
func (m *model) twoHours() {
	for _, j := range m.there() {
		j.later, j.old = false, j.place == done
	}
	for _, l := range m.leases {
		for key := range m.groups {
			l.old[key] = true
		}
	}
}

// forgotten are the jobs that retention deletes, having been told to keep some for an hour.
func (m *model) forgotten(completed, failed bool) (n int) {
	for _, j := range m.there() {
		if j.place == done && j.old && !j.settling && (j.failed && failed || !j.failed && completed) {
			j.deleted = true
			n++
		}
	}
	return n
}

// A row is what the database says of a job.
type row struct {
	ID              int64
	State           string
	Attempt, Losses int
	Failures        int
}

// compare finds a job of which the database says something else.
func (m *model) compare(rows []row) error {
	seen := map[int64]bool{}
	for _, r := range rows {
		j := m.find(r.ID)
		if j == nil {
			return fmt.Errorf("the database has a job that does not exist, it is %s", r.State)
		}
		seen[r.ID] = true
		if g := m.groups[j.group]; j.alone && j.place == ordered && g.by == nil && g.holder == nil && (r.State == "scheduled" || r.State == "retrying") {
			j.place, j.later, g.holder = apart, false, j // its turn came: as it runs alone, it is due now and holds its group
		}
		states := map[place][]string{
			ordered: {"queued", "blocked"}, apart: {"scheduled", "retrying", "blocked", "parked"}, held: {"running"}, done: {"completed"},
		}[j.place]
		if j.place == done && j.failed {
			states = []string{"failed"}
		}
		if !slices.Contains(states, r.State) {
			return fmt.Errorf("%v should be %v: it is %s", j, states, r.State)
		}
		if j.attempt != r.Attempt || j.failures != r.Failures || j.place != done && j.losses != r.Losses {
			return fmt.Errorf("%v is at attempt %d with %d failures and %d losses: the database says %d, %d and %d", j, j.attempt, j.failures, j.losses,
				r.Attempt, r.Failures, r.Losses)
		}
	}
	for _, j := range m.there() {
		if !seen[j.id] {
			return fmt.Errorf("%v is lost", j)
		}
	}
	return nil
}
