// Package demo runs the demonstration of BearMQ: orders from a file go through
// several worker processes, one of which is killed half way, and the result
// is compared with what one process makes of the file.
package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/bearmq/bearmq"
	"github.com/bearmq/bearmq/cmd/bearmq/internal/orders"
	"github.com/bearmq/bearmq/internal/pgserver"
)

// DefaultFile is the file of orders, from the root of the repository.
const DefaultFile = "testdata/orders.csv"

// A Config says what is shown.
type Config struct {
	// File is a file of orders. Where DefaultFile is not there, its orders are
	// generated.
	File string
	// Orders is how many of them are taken, 0 for all.
	Orders int
	// Rate is how many orders arrive in a second.
	Rate int
	// Database is the connection string of a running server. Empty means that
	// of DATABASE_URL, and without one a private server.
	Database string
	// DataDir keeps the private server's data, which are removed if it is empty.
	DataDir string
	// Schema is dropped before and after, with the shop's own, whose name is
	// this one with _shop behind it.
	Schema string

	JSON     bool // the summary
	Verbose  bool // the library's log goes to Err
	Out, Err io.Writer
	Terminal bool // Out is one
}

// Where the demo is stuck for that long, it gives up.
const patience = time.Minute

// chunk is the most orders that are enqueued at once.
const chunk = 1000

// recoverPoll is how often the demo's orchestrator looks for dead workers.
const recoverPoll = 100 * time.Millisecond

// ErrWrong means that what was booked is not what the file says.
var ErrWrong = errors.New("what was booked is not what the file says")

// Run runs the demo. Whatever the outcome, nothing of it stays behind, except
// for DataDir.
func Run(ctx context.Context, c Config) error {
	all, source, err := readOrders(c)
	if err != nil {
		return err
	}
	d := &demo{Config: c, orders: all, source: source, messages: make(chan message, 1000)}
	to, terminal := c.Out, c.Terminal
	if c.JSON {
		to, terminal = c.Err, false
	}
	d.screen = newScreen(to, terminal)
	defer context.AfterFunc(ctx, func() { d.screen.line("interrupted: stopping the workers, and removing what the demo made") })()
	err = d.run(ctx)
	d.screen.done()
	switch {
	case err != nil:
		return err
	case c.JSON:
		out := json.NewEncoder(c.Out)
		out.SetIndent("", "  ")
		err = out.Encode(d.summary)
	default:
		d.summary.Print(c.Out)
	}
	if !d.summary.OK {
		return ErrWrong
	}
	return err
}

// readOrders reads the file.
func readOrders(c Config) (all []orders.Order, source string, err error) {
	file, err := os.Open(c.File)
	switch {
	case errors.Is(err, fs.ErrNotExist) && c.File == DefaultFile:
		all, source = orders.Generate(), "generated as for "+DefaultFile
	case err != nil:
		return nil, "", fmt.Errorf("the file of orders: %w", err)
	default:
		defer func() { _ = file.Close() }()
		if all, err = orders.Read(file); err != nil {
			return nil, "", fmt.Errorf("the file of orders, %s, %w", c.File, err)
		}
		source = "from " + c.File
	}
	if c.Orders > len(all) {
		return nil, "", fmt.Errorf("there are %s orders, not %s", thousands(len(all)), thousands(c.Orders))
	}
	if c.Orders > 0 {
		all = all[:c.Orders]
	}
	if len(all) == 0 {
		return nil, "", fmt.Errorf("the file of orders, %s, holds none", c.File)
	}
	return all, source, nil
}

// A demo is one run.
type demo struct {
	Config
	orders   []orders.Order
	source   string
	screen   *screen
	messages chan message
	summary  Summary

	server  *pgserver.Server
	pool    *pgxpool.Pool
	mq      *bearmq.Context
	shop    *shop
	workers []*process

	enqueued  atomic.Int64
	killed    time.Time
	recovered atomic.Int64 // jobs
	backAt    atomic.Int64 // when the last of them was, Unix nanoseconds
}

// run is all of it; what it starts is stopped by the time it returns.
func (d *demo) run(ctx context.Context) (err error) {
	d.summary.Customers, d.summary.Rate = len(expect(d.orders).balances), d.Rate
	d.screen.say("Orders are booked by worker processes: a customer's one at a time and in order. Half way a worker is killed.\n" +
		"At the end the books are compared with what one process makes of the file.\n")
	d.screen.line("%s orders of %s customers, %s", thousands(len(d.orders)), thousands(d.summary.Customers), d.source)

	if err := d.openDatabase(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.closeDatabase()) }()
	unlock, err := d.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := d.prepare(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.cleanUp(ctx)) }()

	running, stop := context.WithCancel(ctx)
	orchestrated := make(chan error, 1)
	go func() {
		orchestrated <- bearmq.NewOrchestrator(d.mq, bearmq.OrchestratorOptions{RecoverPoll: recoverPoll}).Run(running)
	}()
	defer func() {
		stop()
		err = errors.Join(err, <-orchestrated)
	}()
	defer d.stopWorkers()
	for range 2 {
		if err := d.startWorker(ctx); err != nil {
			return err
		}
	}
	if err := d.show(ctx); err != nil {
		return err
	}
	return d.check(ctx)
}

// openDatabase starts the private server or finds the one that runs.
func (d *demo) openDatabase(ctx context.Context) (err error) {
	if d.Database == "" && os.Getenv("DATABASE_URL") == "" {
		d.screen.progress("a private PostgreSQL starts")
	}
	if d.server, err = pgserver.Open(ctx, pgserver.Options{URL: d.Database, DataDir: d.DataDir, Logger: logger(d.Err, d.Verbose)}); err != nil {
		return err
	}
	if d.pool, err = connect(ctx, d.server.URL(), 6); err == nil {
		err = d.pool.QueryRow(ctx, "SELECT split_part(current_setting('server_version'), ' ', 1)").Scan(&d.summary.PostgreSQL)
	}
	if err != nil {
		return errors.Join(err, d.closeDatabase())
	}
	d.screen.done()
	where := "in a temporary directory"
	switch {
	case !d.server.Private():
		where = fmt.Sprintf("of DATABASE_URL, in the schemas %s and %[1]s_shop", d.Schema)
	case d.DataDir != "":
		where = "in " + d.server.DataDir()
	}
	d.screen.line("PostgreSQL %s %s", d.summary.PostgreSQL, where)
	return nil
}

func (d *demo) closeDatabase() error {
	if d.pool != nil {
		d.pool.Close()
	}
	return d.server.Close()
}

// lock keeps two demos from dropping each other's schemas.
func (d *demo) lock(ctx context.Context) (unlock func(), err error) {
	conn, err := pgx.Connect(ctx, d.server.URL())
	if err != nil {
		return nil, err
	}
	unlock = func() { _ = conn.Close(context.WithoutCancel(ctx)) }
	var alone bool
	if err := conn.QueryRow(ctx, "SELECT pg_try_advisory_lock(hashtextextended('bearmq demo ' || $1, 0))", d.Schema).Scan(&alone); err != nil {
		unlock()
		return nil, err
	}
	if !alone {
		unlock()
		return nil, fmt.Errorf("another demo runs in the schema %s of this database: wait for its end, or choose another --schema", d.Schema)
	}
	return unlock, nil
}

// prepare makes the schemas anew.
func (d *demo) prepare(ctx context.Context) (err error) {
	if d.mq, err = bearmq.New(d.pool, options(d.Schema, logger(d.Err, d.Verbose))); err != nil {
		return err
	}
	d.shop = newShop(d.pool, d.Schema)
	if err := d.dropSchemas(ctx); err != nil {
		return err
	}
	if err := d.mq.Migrate(ctx); err != nil {
		return err
	}
	if err := d.shop.create(ctx); err != nil {
		return errors.Join(err, d.cleanUp(ctx))
	}
	d.mq.AddEventHandler(func(e bearmq.Event) {
		if r, ok := e.(bearmq.JobRecovered); ok {
			d.backAt.Store(r.Time.UnixNano())
			d.recovered.Add(1)
		}
	})
	return d.mq.Register(report.Repeat(bearmq.Every(reportEvery)))
}

// dropSchemas removes what this or an earlier demo has made.
func (d *demo) dropSchemas(ctx context.Context) error {
	if err := d.mq.DropSchema(ctx); err != nil && !errors.Is(err, bearmq.ErrNotMigrated) {
		return err
	}
	return d.shop.drop(ctx)
}

// cleanUp leaves a running server as it was. What a private one has is either
// removed as a whole or to be kept.
func (d *demo) cleanUp(ctx context.Context) error {
	if d.server.Private() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	if err := d.dropSchemas(ctx); err != nil {
		return fmt.Errorf("removing the schemas %s and %[1]s_shop: %w", d.Schema, err)
	}
	return nil
}

func (d *demo) startWorker(ctx context.Context) error {
	env := []string{envURL + "=" + d.server.URL(), envSchema + "=" + d.Schema}
	var verbose io.Writer
	if d.Verbose {
		env, verbose = append(env, envVerbose+"=1"), d.Err
	}
	p, err := start(fmt.Sprintf("worker %d", len(d.workers)+1), env, verbose, func(m message) {
		select {
		case d.messages <- m:
		default: // nobody reads any more
		}
	})
	if err != nil {
		return err
	}
	d.workers = append(d.workers, p)
	if err := p.awaitReady(ctx); err != nil {
		return err
	}
	d.screen.line("%s is ready (process %d)", p.name, p.cmd.Process.Pid)
	return nil
}

func (d *demo) stopWorkers() {
	for _, p := range d.workers {
		p.expectEnd()
		_ = p.input.Close() // all at once: they stop side by side
	}
	for _, p := range d.workers {
		p.stop()
	}
}

// show feeds the orders, kills a worker half way, and waits until all orders
// are booked.
func (d *demo) show(ctx context.Context) error {
	feeding, cancel := context.WithCancel(ctx)
	fed := make(chan error, 1)
	began := time.Now()
	half := make(chan struct{})
	go func() { fed <- d.feed(feeding, half) }()
	feed := fed
	defer func() {
		cancel()
		if feed != nil {
			<-feed
		}
	}()
	d.screen.line("the orders arrive, %s/s; a tenth is express and has slots of its own", thousands(d.Rate))

	ticks := time.NewTicker(100 * time.Millisecond)
	defer ticks.Stop()
	speed := &speedometer{}
	booked, moved := 0, time.Now()
	back, told := int64(0), false
	for booked < len(d.orders) {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case err := <-feed:
			if feed = nil; err != nil {
				return err
			}
		case <-half:
			half = nil
			if err := d.workers[1].say(sayHold); err != nil {
				return fmt.Errorf("worker 2: %w", err)
			}
		case m := <-d.messages:
			if err := d.hear(ctx, m); err != nil {
				return err
			}
		case <-ticks.C:
			now, _, err := d.shop.status(ctx)
			if err != nil {
				return err
			}
			if now != booked {
				booked, moved = now, time.Now()
			}
			if time.Since(moved) > patience {
				return fmt.Errorf("no order was booked for %v, %s of %s are missing", patience, thousands(len(d.orders)-booked), thousands(len(d.orders)))
			}
			before := back
			if back = d.recovered.Load(); back > 0 && back == before && !told { // all that there were
				told = true
				d.screen.line("the %d jobs that worker 2 had came back, %.1f s after it was killed", back, d.recoverTime().Seconds())
			}
			d.screen.progress("%s of %s booked, %d %%  %s/s  %s waiting", thousands(booked), thousands(len(d.orders)),
				booked*100/len(d.orders), thousands(speed.of(booked)), thousands(int(d.enqueued.Load())-booked))
		}
	}
	took := time.Since(began)
	d.summary.Seconds = seconds(took)
	d.summary.JobsPerSecond = math.Round(float64(booked) / took.Seconds())
	d.summary.LossesRecovered = int(d.recovered.Load())
	d.summary.RecoverSeconds = seconds(d.recoverTime())
	d.screen.line("all orders are booked")
	return nil
}

// hear does what a worker process's message asks for.
func (d *demo) hear(ctx context.Context, m message) error {
	switch m.what {
	case saidReport:
		d.screen.line("report: %s (%s)", m.text, m.from.name)
	case saidFailed:
		return fmt.Errorf("%s: %s", m.from.name, m.text)
	case saidEnded:
		return fmt.Errorf("%s ended by itself: %s", m.from.name, m.text)
	case saidHolding:
		d.killed = time.Now()
		if err := m.from.kill(); err != nil {
			return fmt.Errorf("killing %s: %w", m.from.name, err)
		}
		d.screen.line("%s was killed (SIGKILL) with %s payments under way; its jobs come back when its session ends, within %.0f s",
			m.from.name, m.text, sessionTTL.Seconds())
		return d.startWorker(ctx)
	}
	return nil
}

func (d *demo) recoverTime() time.Duration {
	if d.backAt.Load() == 0 {
		return 0
	}
	return time.Unix(0, d.backAt.Load()).Sub(d.killed)
}

// feed enqueues the orders in the order of the file, as they arrive. A chunk
// is one transaction, and the next one begins after its commit: so the order
// holds within each customer and channel.
func (d *demo) feed(ctx context.Context, half chan<- struct{}) error {
	ticks := time.NewTicker(20 * time.Millisecond)
	defer ticks.Stop()
	began := time.Now()
	for sent := 0; sent < len(d.orders); {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticks.C:
		}
		arrived := min(int(time.Since(began).Seconds()*float64(d.Rate))+1, len(d.orders))
		for part := range slices.Chunk(d.orders[sent:arrived], chunk) {
			jobs := make([]bearmq.NewJob, len(part))
			for i, o := range part {
				jobs[i] = job(o)
			}
			if _, err := d.mq.EnqueueBatch(ctx, jobs...); err != nil {
				return err
			}
			d.enqueued.Add(int64(len(part)))
		}
		if sent < len(d.orders)/2 && arrived >= len(d.orders)/2 {
			close(half)
		}
		sent = arrived
	}
	return nil
}

// check compares what was booked with what one process makes of the orders.
func (d *demo) check(ctx context.Context) error {
	ledger, err := d.shop.ledger(ctx)
	if err != nil {
		return err
	}
	balances, err := d.shop.balances(ctx)
	if err != nil {
		return err
	}
	want := expect(d.orders)
	d.summary.tell(ledger)
	d.summary.Differences = compare(want, ledger, balances)
	d.summary.Checked = Checked{Balances: len(want.balances), Sequences: len(want.sequences)}
	d.summary.OK = len(d.summary.Differences) == 0
	return nil
}

// seconds are exact to the millisecond.
func seconds(d time.Duration) float64 { return d.Round(time.Millisecond).Seconds() }

// A speedometer tells how many a second there were of late.
type speedometer struct{ at []sample }

type sample struct {
	when  time.Time
	count int
}

func (s *speedometer) of(count int) int {
	now := time.Now()
	s.at = append(s.at, sample{now, count})
	for len(s.at) > 2 && now.Sub(s.at[1].when) > time.Second {
		s.at = s.at[1:]
	}
	first := s.at[0]
	if elapsed := now.Sub(first.when).Seconds(); elapsed > 0 {
		return int(float64(count-first.count) / elapsed)
	}
	return 0
}
