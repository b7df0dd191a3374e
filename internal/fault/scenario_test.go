//go:build fault && unix

package fault

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq"
	"github.com/bearmq/bearmq/internal/pgserver"
	"github.com/bearmq/bearmq/internal/pgtest"
)

// The profile of the matrix. A dead process's jobs start elsewhere within
// recovery: TTL, one sweep, one poll, and a second of slack.
const (
	ttl   = 3 * time.Second
	sweep = time.Second
	poll  = time.Second

	longTransaction = 2 * time.Second // is warned of
	recovery        = ttl + sweep + poll + time.Second

	drainTime = 30 * time.Second
	// patience is for what must happen but has no deadline of its own.
	patience = 30 * time.Second
)

// A scenario is one row at work.
type scenario struct {
	*testing.T
	server *pgserver.Server // its own; nil: the shared one
	url    string           // of the server
	schema string
	dir    string
	pool   *pgxpool.Pool   // of the test, which nobody harms
	mq     *bearmq.Context // of the test: it enqueues
	own    *journal

	mu      sync.Mutex
	acked   map[bearmq.JobID]bool
	unknown int // enqueues whose answer was lost
	tasks   int

	leaving   time.Duration // what is left may take so long to go
	suspect   *[]string     // what is wrong goes here, in the test of the oracle
	processes []*process
	clients   []*pgxpool.Pool
	// These say what the oracle cannot ask of a row.
	clockOff bool // the server has another clock than its clients
	failing  bool // jobs may fail
	unlocks  bool // groups are taken from live sessions: their jobs have no right to go on from then on
}

// begin is a scenario on the shared server.
func begin(t *testing.T) *scenario { return prepare(t, nil, pgtest.URL(t), pgtest.Schema(t)) }

// beginAlone is a scenario on a server of its own.
func beginAlone(t *testing.T, settings map[string]string) *scenario {
	server := pgtest.Start(t, pgserver.Options{Settings: settings})
	return prepare(t, server, server.URL(), "row")
}

func prepare(t *testing.T, server *pgserver.Server, url, schema string) *scenario {
	t.Helper()
	s := &scenario{T: t, server: server, url: url, schema: schema, dir: t.TempDir(), acked: map[bearmq.JobID]bool{}, leaving: patience}
	var err error
	s.own, err = openJournal(s.dir, "test")
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.own.file.Close() })
	s.pool, err = role{URL: url, Schema: schema, Name: "test", Pool: 8}.connect(t.Context())
	require.NoError(t, err)
	t.Cleanup(s.pool.Close)
	s.mq, err = bearmq.New(s.pool, bearmq.Options{Schema: schema, SessionTTL: ttl, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	require.NoError(t, s.mq.Migrate(t.Context()))
	// What handlers do in the database, and a record of how each job came back:
	// tickets are deleted when their job is finished.
	s.exec(`CREATE TABLE bearmq.fault_effect (n integer NOT NULL, run bigint NOT NULL)`)
	s.exec(`CREATE TABLE bearmq.fault_given (job bigint NOT NULL, at timestamptz NOT NULL, losses integer NOT NULL)`)
	s.exec(`CREATE FUNCTION bearmq.fault_given() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			INSERT INTO bearmq.fault_given VALUES (NEW.job_id, clock_timestamp(), NEW.losses - CASE TG_OP WHEN 'UPDATE' THEN OLD.losses ELSE 0 END);
			RETURN NULL;
		END $$;
		CREATE TRIGGER fault_given AFTER INSERT ON bearmq.ticket FOR EACH ROW WHEN (NEW.state <> 'c') EXECUTE FUNCTION bearmq.fault_given();
		CREATE TRIGGER fault_back AFTER UPDATE ON bearmq.ticket FOR EACH ROW WHEN (OLD.state = 'c' AND NEW.state <> 'c') EXECUTE FUNCTION bearmq.fault_given()`)
	t.Cleanup(s.explain)
	return s
}

// explain keeps what a failed row has written where somebody can read it.
func (s *scenario) explain() {
	if !s.Failed() {
		return
	}
	dir := os.Getenv("BEARMQ_FAULT_KEEP")
	if dir == "" {
		s.Log("BEARMQ_FAULT_KEEP=directory keeps histories and logs of rows that fail")
		return
	}
	to := filepath.Join(dir, strings.NewReplacer("/", "_", " ", "_").Replace(s.Name()))
	if err := os.CopyFS(to, os.DirFS(s.dir)); err != nil {
		s.Log(err)
	}
}

// sql puts the scenario's schema into a text written for "bearmq".
func (s *scenario) sql(text string) string {
	return strings.ReplaceAll(text, "bearmq.", pgx.Identifier{s.schema}.Sanitize()+".")
}

func (s *scenario) exec(text string, args ...any) int64 {
	s.Helper()
	tag, err := s.pool.Exec(s.Context(), s.sql(text), args...)
	require.NoError(s, err)
	return tag.RowsAffected()
}

// value is the one value of a query.
func value[T any](s *scenario, text string, args ...any) T {
	s.Helper()
	rows, err := s.pool.Query(s.Context(), s.sql(text), args...)
	require.NoError(s, err)
	v, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
	require.NoError(s, err)
	return v
}

func column[T any](s *scenario, text string, args ...any) []T {
	s.Helper()
	rows, err := s.pool.Query(s.Context(), s.sql(text), args...)
	require.NoError(s, err)
	all, err := pgx.CollectRows(rows, pgx.RowTo[T])
	require.NoError(s, err)
	return all
}

// tables are those of the scenario's schema.
func (s *scenario) tables() []string {
	s.Helper()
	return column[string](s, `SELECT tablename::text FROM pg_tables WHERE schemaname = $1`, s.schema)
}

// within waits for a condition.
func (s *scenario) within(d time.Duration, what string, condition func() bool) {
	s.Helper()
	if !eventually(s.Context(), d, condition) {
		require.Fail(s, "not within "+d.String(), what)
	}
}

func eventually(ctx context.Context, d time.Duration, condition func() bool) bool {
	for deadline := time.Now().Add(d); ; {
		if condition() {
			return true
		}
		if time.Now().After(deadline) || !wait(ctx, 20*time.Millisecond) {
			return false
		}
	}
}

// during asserts a condition for a while.
func (s *scenario) during(d time.Duration, what string, condition func() bool) {
	s.Helper()
	if eventually(s.Context(), d, func() bool { return !condition() }) {
		require.Fail(s, "not so for "+d.String(), what)
	}
}

// fill gives a task its number.
func (s *scenario) fill(t task) task {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tasks++
	t.N = s.tasks
	return t
}

// enqueue makes a job, which is acknowledged. It returns its number.
func (s *scenario) enqueue(t task, opts ...bearmq.EnqueueOption) int {
	s.Helper()
	t = s.fill(t)
	id, err := work.Enqueue(s.Context(), s.mq, t, opts...)
	require.NoError(s, err)
	s.ack(id)
	return t.N
}

func (s *scenario) ack(ids ...bearmq.JobID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		s.acked[id] = true
	}
}

// try makes a job while enqueueing may fail; it says whether the job exists.
func (s *scenario) try(ctx context.Context, mq *bearmq.Context, t task, opts ...bearmq.EnqueueOption) error {
	id, err := work.Enqueue(ctx, mq, s.fill(t), opts...)
	switch {
	case err == nil:
		s.ack(id)
	case errors.Is(err, bearmq.ErrUnknownOutcome):
		s.mu.Lock()
		s.unknown++
		s.mu.Unlock()
	}
	return err
}

// load enqueues jobs of a few groups, one after another, until stop is called.
func (s *scenario) load(mq *bearmq.Context, every time.Duration, next func(i int) task, opts ...bearmq.EnqueueOption) (stop func() (done, refused int)) {
	ctx, cancel := context.WithCancel(s.Context())
	var done, refused int
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		for i := 0; wait(ctx, every); i++ {
			call, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			if s.try(call, mq, next(i), opts...) == nil {
				done++
			} else {
				refused++
			}
			cancel()
		}
	}()
	stop = sync.OnceValues(func() (int, int) {
		cancel()
		<-finished
		return done, refused
	})
	s.Cleanup(func() { stop() })
	return stop
}

// client is a Context for enqueueing in another process than the test's, or at
// least with connections that can be harmed.
func (s *scenario) client(name string, edit func(*role)) *bearmq.Context {
	s.Helper()
	r := s.role(name, edit)
	pool, err := r.connect(s.Context())
	require.NoError(s, err)
	s.Cleanup(pool.Close)
	s.clients = append(s.clients, pool)
	options := r.options()
	options.Logger = slog.New(slog.DiscardHandler)
	mq, err := bearmq.New(pool, options)
	require.NoError(s, err)
	return mq
}

// A process runs a role: in a process of its own, or inside the test's.
type process struct {
	s      *scenario
	name   string
	cmd    *exec.Cmd // nil: inside
	output bytes.Buffer
	cancel context.CancelFunc
	over   chan struct{}
	err    error // how it ended, once over is closed
	dead   bool  // it was killed, or was meant to end so
}

func (s *scenario) role(name string, edit func(*role)) role {
	r := role{Name: name, URL: s.url, Schema: s.schema, Dir: s.dir, TTL: ttl, Concurrency: 10, Grace: 5 * time.Second, Pool: 8}
	if edit != nil {
		edit(&r)
	}
	return r
}

func worker(r *role)       { r.Worker = true }
func orchestrator(r *role) { r.Orchestrator = true }

// inside runs a role inside the test's process, and waits until it has started.
func (s *scenario) inside(name string, edits ...func(*role)) *process {
	s.Helper()
	r := s.role(name, func(r *role) { apply(r, edits) })
	ctx, cancel := context.WithCancel(context.Background())
	p := &process{s: s, name: name, cancel: cancel, over: make(chan struct{})}
	go pprof.Do(ctx, pprof.Labels("fault", s.dir), func(ctx context.Context) {
		defer close(p.over)
		p.err = r.run(ctx)
	})
	s.processes = append(s.processes, p)
	s.Cleanup(func() { cancel(); <-p.over })
	p.ready()
	return p
}

// spawn runs a role in a process of its own, and waits until it has started.
func (s *scenario) spawn(name string, edits ...func(*role)) *process {
	s.Helper()
	p := s.launch(name, edits...)
	p.ready()
	return p
}

func apply(r *role, edits []func(*role)) {
	for _, edit := range edits {
		edit(r)
	}
}

func (s *scenario) launch(name string, edits ...func(*role)) *process {
	s.Helper()
	r := s.role(name, func(r *role) { apply(r, edits) })
	text, err := json.Marshal(r)
	require.NoError(s, err)
	binary, err := os.Executable()
	require.NoError(s, err)
	p := &process{s: s, name: name, cmd: exec.Command(binary), over: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), roleVariable+"="+string(text), fmt.Sprint("GOMAXPROCS=", cmp.Or(r.CPUs, 2)))
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	stdin, err := p.cmd.StdinPipe() // the child ends with it
	require.NoError(s, err)
	require.NoError(s, p.cmd.Start())
	s.own.add(record{Process: name, PID: p.cmd.Process.Pid, Step: spawned})
	go func() {
		p.err = p.cmd.Wait()
		close(p.over)
	}()
	s.processes = append(s.processes, p)
	s.Cleanup(func() {
		_ = stdin.Close()
		_ = p.cmd.Process.Kill()
		<-p.over
	})
	return p
}

func (p *process) ready() {
	p.s.Helper()
	p.s.within(patience, p.name+" has started", func() bool {
		select {
		case <-p.over:
			require.Fail(p.s, p.name+" has ended", "%v\n%s", p.err, p.output.String())
		default:
		}
		return len(p.s.find(told("DAEMON_START"), by(p.name))) > 0
	})
}

// signal sends a signal to a process of its own.
func (p *process) signal(sig syscall.Signal) {
	p.s.Helper()
	require.NoError(p.s, p.cmd.Process.Signal(sig))
}

// kill ends it with SIGKILL, and returns when it is dead.
func (p *process) kill() time.Time {
	p.s.Helper()
	at := time.Now()
	p.signal(syscall.SIGKILL)
	p.died()
	return at
}

// died waits for the death of a process that kills itself.
func (p *process) died() {
	p.s.Helper()
	p.dead = true
	p.ends(patience)
	p.s.own.add(record{Process: p.name, PID: p.cmd.Process.Pid, Step: killed})
}

func (p *process) freeze() time.Time {
	p.s.Helper()
	at := time.Now()
	p.signal(syscall.SIGSTOP)
	p.s.own.add(record{Process: p.name, PID: p.cmd.Process.Pid, Step: frozen})
	return at
}

func (p *process) thaw() time.Time {
	p.s.Helper()
	at := time.Now()
	p.signal(syscall.SIGCONT)
	p.s.own.add(record{Process: p.name, PID: p.cmd.Process.Pid, Step: thawed})
	return at
}

// ends waits for its end.
func (p *process) ends(d time.Duration) {
	p.s.Helper()
	select {
	case <-p.over:
	case <-time.After(d):
		require.Fail(p.s, "has not ended", "%s after %v", p.name, d)
	}
}

// stop ends it in good order.
func (p *process) stop() error {
	p.s.Helper()
	if p.cmd != nil {
		p.signal(syscall.SIGTERM)
	} else {
		p.cancel()
	}
	p.ends(patience)
	return p.err
}

func (p *process) ended() bool {
	select {
	case <-p.over:
		return true
	default:
		return false
	}
}

// log is what the library has logged in the process.
func (p *process) log() string {
	p.s.Helper()
	text, err := os.ReadFile(filepath.Join(p.s.dir, p.name+".log"))
	require.NoError(p.s, err)
	return string(text)
}

// letThrough opens a gate at which jobs wait.
func (s *scenario) letThrough(gate string) {
	s.Helper()
	require.NoError(s, os.WriteFile(filepath.Join(s.dir, "gate-"+gate), nil, 0o644))
}

// seconds is a time for a log.
func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
