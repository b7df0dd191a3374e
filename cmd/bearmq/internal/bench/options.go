package bench

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// options say what is measured, and how.
type options struct {
	work    *work
	command string // as it was given

	jobs         int
	payloadBytes int
	groups       int // 0: none, each: one a job
	connections  int // that enqueue
	processes    int // that work
	channels     int
	backlog      int
	rounds       int
	slots        int // of each worker, 0: the default
	rate         float64
	duration     time.Duration
	handler      time.Duration
	retention    time.Duration // keepDefault: that of the library
	holdSnapshot bool
	delayed      bool
	inTx         bool
	disjoint     bool

	json     bool
	database string
	data     string

	// For tests.
	settings map[string]string                          // of the private server
	spoil    func(context.Context, *pgxpool.Pool) error // breaks the migrated engine
}

const (
	each        = -1 // as groups
	keepDefault = time.Duration(-1)
)

const usage = `bearmq bench [WORK] [flags] measures BearMQ through its public API at default
options, beside the least that PostgreSQL itself needs for the same, and checks
that every job ran exactly once and survives a crash of the server.

WORK is one of:
%s
Without --database and DATABASE_URL it runs on a private PostgreSQL, which it
starts and removes. On another server it makes a database of its own and drops
it at the end.

flags, with the defaults for %s:
`

// parse reads the command line. The WORK may stand anywhere in it.
func parse(args []string, stderr io.Writer) (*options, error) {
	o := &options{
		work:    works[slices.IndexFunc(works, func(w *work) bool { return w.name == "drain" })],
		command: strings.Join(append([]string{"bearmq bench"}, slices.DeleteFunc(slices.Clone(args), isJSONFlag)...), " "),
	}
	args = slices.Clone(args)
	for _, w := range works {
		if i := slices.Index(args, w.name); i >= 0 {
			o.work = w
			args = slices.Delete(args, i, i+1)
			break
		}
	}
	o.defaults()
	f := o.flags(stderr)
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("%q is not a WORK; there are %s", f.Arg(0), workNames())
	}
	given := map[string]bool{}
	f.Visit(func(f *flag.Flag) { given[f.Name] = true })
	o.derive(given)
	return o, o.check()
}

// isJSONFlag tells whether the argument changes how the answer is written only.
func isJSONFlag(arg string) bool { return arg == "--json" || arg == "-json" }

func (o *options) defaults() {
	o.jobs, o.payloadBytes, o.connections, o.processes, o.channels, o.rounds = 500_000, 50, 1, 1, 1, 3
	o.retention = keepDefault
	o.work.defaults(o)
}

func (o *options) flags(stderr io.Writer) *flag.FlagSet {
	f := flag.NewFlagSet("bearmq bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Usage = func() {
		fmt.Fprintf(stderr, usage, workList(), o.work.name)
		f.PrintDefaults()
	}
	f.IntVar(&o.jobs, "jobs", o.jobs, "jobs a round")
	f.IntVar(&o.payloadBytes, "payload-bytes", o.payloadBytes, "bytes of JSON of each payload")
	f.Func("groups", "groups that the jobs are in, in turn; 0 for none, each for one a job", func(text string) error {
		if text == "each" {
			text = strconv.Itoa(each)
		}
		n, err := strconv.Atoi(text)
		o.groups = n
		if err != nil || n < each {
			return errors.New("must be a number, or each")
		}
		return nil
	})
	f.IntVar(&o.connections, "connections", o.connections, "connections that enqueue")
	f.IntVar(&o.processes, "processes", o.processes, "worker processes")
	f.IntVar(&o.channels, "channels", o.channels, "channels that the jobs are in, in turn")
	f.IntVar(&o.backlog, "backlog", o.backlog, "jobs of one group in front of the measured ones, blocked until the end by the first of them")
	f.IntVar(&o.rounds, "rounds", o.rounds, "rounds; the figures are their medians")
	f.IntVar(&o.slots, "slots", o.slots, "jobs that a worker process runs at once; 0 is the worker's default")
	f.Float64Var(&o.rate, "rate", o.rate, "jobs enqueued a second, by stream and latency; 0 is as fast as possible")
	f.DurationVar(&o.duration, "duration", o.duration, "how long stream enqueues and idle idles")
	f.DurationVar(&o.handler, "handler", o.handler, "how long a handler takes")
	f.Func("retention", "delete finished jobs after this time: stream does it meanwhile, drain once the clock has stopped", func(text string) (err error) {
		o.retention, err = time.ParseDuration(text)
		if err == nil && o.retention < 0 {
			err = errors.New("must not be negative")
		}
		return err
	})
	f.BoolVar(&o.holdSnapshot, "hold-snapshot", o.holdSnapshot, "hold a REPEATABLE READ snapshot from before the first insert until the clock stops")
	f.BoolVar(&o.delayed, "delayed", o.delayed, "latency: enqueue the jobs at once, due within one second, and measure how late they start")
	f.BoolVar(&o.inTx, "in-tx", o.inTx, "latency: enqueue in a transaction that also inserts a row")
	f.BoolVar(&o.disjoint, "disjoint", o.disjoint, "each worker process knows the names of its own share of the jobs only")
	f.BoolVar(&o.json, "json", o.json, "print JSON instead of a table")
	f.StringVar(&o.database, "database", o.database, "connection string of a running server (default: DATABASE_URL, else a private server)")
	f.StringVar(&o.data, "data", o.data, "data directory of the private server, which is kept (default: a temporary one)")
	return f
}

// derive sets what follows from other flags, where it was not given.
func (o *options) derive(given map[string]bool) {
	switch o.work.name {
	case "stream":
		if o.rate > 0 && !given["jobs"] {
			o.jobs = int(min(o.rate*o.duration.Seconds(), math.MaxInt32))
		}
		if o.rate > 0 {
			o.duration = time.Duration(min(float64(o.jobs)/o.rate, math.MaxInt32) * float64(time.Second))
		}
		if o.rate > 0 && o.retention == keepDefault {
			o.retention = min(o.duration/4, time.Minute)
		}
	case "idle":
		o.jobs = max(o.jobs, o.channels)
	case "latency":
		if o.delayed && !given["jobs"] {
			o.jobs = 10_000
		}
	}
}

func (o *options) check() error {
	for _, c := range []struct {
		ok   bool
		flag string
		must string
	}{
		{o.jobs >= 10, "jobs", "be at least 10"},
		{o.payloadBytes >= 0, "payload-bytes", "not be negative"},
		{o.connections >= 1, "connections", "be at least 1"},
		{o.processes >= 1, "processes", "be at least 1"},
		{o.channels >= 1, "channels", "be at least 1"},
		{o.backlog >= 0, "backlog", "not be negative"},
		{o.rounds >= 1, "rounds", "be at least 1"},
		{o.slots >= 0, "slots", "not be negative"},
		{o.rate >= 0 && o.rate <= math.MaxInt32, "rate", "be 0 to 2147483647"},
		{o.duration >= 0, "duration", "not be negative"},
		{o.handler >= 0, "handler", "not be negative"},
		{o.work.name != "latency" || o.delayed || o.rate > 0, "rate", "be positive for latency"},
		{o.work.name != "idle" || o.duration > 0, "duration", "be positive for idle"},
	} {
		if !c.ok {
			return fmt.Errorf("--%s must %s", c.flag, c.must)
		}
	}
	return nil
}

func workNames() string {
	names := make([]string, len(works))
	for i, w := range works {
		names[i] = w.name
	}
	return strings.Join(names, ", ")
}

func workList() string {
	var b strings.Builder
	for _, w := range works {
		fmt.Fprintf(&b, "  %-8s %s\n", w.name, w.what)
	}
	return b.String()
}
