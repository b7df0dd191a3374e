package bearmq_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/bearmq/bearmq"
	"github.com/bearmq/bearmq/internal/pgtest"
)

// exampleContext is a Context in a schema of its own. An application makes its
// pool with pgxpool.New and calls bearmq.New and Migrate.
func exampleContext() (mq *bearmq.Context, pool *pgxpool.Pool, done func()) {
	pool, schema, done := pgtest.Example()
	mq, err := bearmq.New(pool, bearmq.Options{Schema: schema, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	check(err)
	check(mq.Migrate(context.Background()))
	return mq, pool, done
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

type Email struct{ To, Tenant string }

// What a job is: shared by whoever enqueues it and whoever runs it.
var SendEmail = bearmq.Define(bearmq.Spec[Email]{
	Name:     "send_email",
	Attempts: 5,
	Backoff:  bearmq.Exponential(),
	Timeout:  30 * time.Second,
	Group:    func(e Email) string { return e.Tenant },
})

func Example() {
	ctx := context.Background()
	mq, _, done := exampleContext()
	defer done()

	check(mq.Register(SendEmail.Handle(func(ctx context.Context, job *bearmq.Job[Email]) error {
		fmt.Println("mail to", job.Payload.To)
		return nil
	})))
	_, err := SendEmail.Enqueue(ctx, mq, Email{To: "ann@example.com", Tenant: "acme"})
	check(err)
	_, err = SendEmail.Enqueue(ctx, mq, Email{To: "bob@example.com", Tenant: "acme"})
	check(err)

	// An application runs bearmq.Run(ctx, worker, orchestrator) until it is
	// stopped; Drain is for tests and one-off commands.
	check(bearmq.NewWorker(mq, bearmq.WorkerOptions{}).Drain(ctx))
	// Output:
	// mail to ann@example.com
	// mail to bob@example.com
}

func ExampleRun() {
	mq, _, done := exampleContext()
	defer done()
	ctx, stop := context.WithCancel(context.Background())

	check(mq.Register(SendEmail.Handle(func(ctx context.Context, job *bearmq.Job[Email]) error {
		fmt.Println("mail to", job.Payload.To)
		stop() // an application stops on a signal: signal.NotifyContext
		return nil
	})))
	_, err := SendEmail.Enqueue(ctx, mq, Email{To: "ann@example.com"})
	check(err)

	worker := bearmq.NewWorker(mq, bearmq.WorkerOptions{Concurrency: 50})
	orchestrator := bearmq.NewOrchestrator(mq, bearmq.OrchestratorOptions{})
	fmt.Println(bearmq.Run(ctx, worker, orchestrator))
	// Output:
	// mail to ann@example.com
	// <nil>
}

func ExampleContext_In() {
	ctx := context.Background()
	mq, pool, done := exampleContext()
	defer done()

	// The job exists if, and only if, the transaction commits.
	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		// ... the application's own writes ...
		_, err := SendEmail.Enqueue(ctx, mq.In(tx), Email{To: "ann@example.com"})
		check(err)
		return errors.New("changed my mind")
	})
	fmt.Println(err)

	check(mq.Register(SendEmail.Handle(func(context.Context, *bearmq.Job[Email]) error {
		fmt.Println("never called")
		return nil
	})))
	check(bearmq.NewWorker(mq, bearmq.WorkerOptions{}).Drain(ctx))
	// Output: changed my mind
}

func ExampleJobDefinition_EnqueueMany() {
	ctx := context.Background()
	mq, _, done := exampleContext()
	defer done()

	emails := make([]Email, 1000)
	ids, err := SendEmail.EnqueueMany(ctx, mq, emails)
	fmt.Println(len(ids), err)
	// Output: 1000 <nil>
}

func ExampleJobDefinition_EnqueueSeq() {
	ctx := context.Background()
	mq, _, done := exampleContext()
	defer done()

	// However long the sequence, 10,000 of its jobs are in memory at a time.
	n, err := SendEmail.EnqueueSeq(ctx, mq, func(yield func(Email) bool) {
		for i := range 25_000 {
			if !yield(Email{To: fmt.Sprintf("user%d@example.com", i)}) {
				return
			}
		}
	})
	fmt.Println(n, err)
	// Output: 25000 <nil>
}

func ExampleContext_EnqueueBatch() {
	ctx := context.Background()
	mq, _, done := exampleContext()
	defer done()

	type Bill struct{ Customer int }
	bill := bearmq.Define(bearmq.Spec[Bill]{Name: "bill"})

	// Jobs of several definitions, all of them or none.
	ids, err := mq.EnqueueBatch(ctx,
		bill.Job(Bill{Customer: 7}),
		SendEmail.Job(Email{To: "ann@example.com"}, bearmq.Delay(time.Hour)),
	)
	fmt.Println(len(ids), err)
	// Output: 2 <nil>
}

func ExampleDefineResult() {
	ctx := context.Background()
	mq, _, done := exampleContext()
	defer done()

	type Numbers struct{ A, B int }
	sum := bearmq.DefineResult[Numbers, int](bearmq.Spec[Numbers]{Name: "sum"})
	check(mq.Register(sum.Handle(func(_ context.Context, job *bearmq.Job[Numbers]) (int, error) {
		return job.Payload.A + job.Payload.B, nil
	})))
	id, err := sum.Enqueue(ctx, mq, Numbers{2, 3})
	check(err)
	_, err = sum.Result(ctx, mq, id)
	fmt.Println(errors.Is(err, bearmq.ErrNotFinished))

	check(bearmq.NewWorker(mq, bearmq.WorkerOptions{}).Drain(ctx))
	fmt.Println(sum.Result(ctx, mq, id))
	// Output:
	// true
	// 5 <nil>
}

func ExampleResultDefinition_Await() {
	mq, _, done := exampleContext()
	defer done()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()

	double := bearmq.DefineResult[int, int](bearmq.Spec[int]{Name: "double"})
	check(mq.Register(double.Handle(func(_ context.Context, job *bearmq.Job[int]) (int, error) {
		if job.Payload > 100 {
			return 0, bearmq.Permanent(errors.New("too much"))
		}
		return 2 * job.Payload, nil
	})))
	stopped := make(chan error)
	go func() { stopped <- bearmq.NewWorker(mq, bearmq.WorkerOptions{}).Run(ctx) }() // here or elsewhere

	for _, n := range []int{21, 101} {
		id, err := double.Enqueue(ctx, mq, n)
		check(err)
		twice, err := double.Await(ctx, mq, id)
		var failed *bearmq.JobFailedError
		if errors.As(err, &failed) {
			fmt.Println(failed.State, failed.Message)
			continue
		}
		fmt.Println(twice, err)
	}
	stop()
	check(<-stopped)
	// Output:
	// 42 <nil>
	// failed too much
}

func ExampleContext_Cancel() {
	ctx := context.Background()
	mq, _, done := exampleContext()
	defer done()

	remind := bearmq.Define(bearmq.Spec[string]{Name: "remind"})
	check(mq.Register(remind.Handle(func(_ context.Context, job *bearmq.Job[string]) error {
		fmt.Println("remind", job.Payload)
		return nil
	})))
	id, err := remind.Enqueue(ctx, mq, "ann")
	check(err)
	_, err = remind.Enqueue(ctx, mq, "bob")
	check(err)
	fmt.Println(mq.Cancel(ctx, id))
	check(bearmq.NewWorker(mq, bearmq.WorkerOptions{}).Drain(ctx))
	// Output:
	// cancelled <nil>
	// remind bob
}

func ExamplePriority() {
	ctx := context.Background()
	mq, _, done := exampleContext()
	defer done()

	report := bearmq.Define(bearmq.Spec[string]{Name: "report"})
	check(mq.Register(report.Handle(func(_ context.Context, job *bearmq.Job[string]) error {
		fmt.Println(job.Payload)
		return nil
	})))
	_, err := report.Enqueue(ctx, mq, "nightly", bearmq.Priority(-10))
	check(err)
	_, err = report.Enqueue(ctx, mq, "somebody waits for it")
	check(err)
	check(bearmq.NewWorker(mq, bearmq.WorkerOptions{Concurrency: 1}).Drain(ctx))
	// Output:
	// somebody waits for it
	// nightly
}

func ExampleRawJob_CompleteTx() {
	ctx := context.Background()
	mq, pool, done := exampleContext()
	defer done()

	type Payment struct{ Customer int }
	pay := bearmq.Define(bearmq.Spec[Payment]{Name: "pay"})
	check(mq.Register(pay.Handle(func(ctx context.Context, job *bearmq.Job[Payment]) error {
		// What the job does and that it is done are committed together: exactly
		// once, whatever crashes.
		return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "SELECT 'the effect of the payment'"); err != nil {
				return err
			}
			return job.CompleteTx(ctx, tx)
		})
	})))
	_, err := pay.Enqueue(ctx, mq, Payment{Customer: 7})
	check(err)
	remove := mq.AddEventHandler(func(e bearmq.Event) {
		if e.Kind() == bearmq.KindJobSucceeded {
			fmt.Println("paid, attempt", e.Common().Attempt)
		}
	})
	defer remove()
	check(bearmq.NewWorker(mq, bearmq.WorkerOptions{}).Drain(ctx))
	// Output: paid, attempt 1
}

func ExamplePermanent() {
	ctx := context.Background()
	mq, _, done := exampleContext()
	defer done()

	check(mq.Register(SendEmail.Handle(func(_ context.Context, job *bearmq.Job[Email]) error {
		fmt.Println("attempt", job.Attempt, "of", job.MaxAttempts)
		return bearmq.Permanent(errors.New("no such mailbox"))
	})))
	remove := mq.AddEventHandler(func(e bearmq.Event) {
		if e, ok := e.(bearmq.JobErrored); ok {
			fmt.Println(e.Err, "- retry:", e.Retry)
		}
	})
	defer remove()
	_, err := SendEmail.Enqueue(ctx, mq, Email{To: "nobody@example.com"})
	check(err)
	check(bearmq.NewWorker(mq, bearmq.WorkerOptions{}).Drain(ctx))
	// Output:
	// attempt 1 of 5
	// no such mailbox - retry: false
}

func ExampleSnooze() {
	ctx := context.Background()
	mq, _, done := exampleContext()
	defer done()

	calls := 0
	check(mq.Register(SendEmail.Handle(func(_ context.Context, job *bearmq.Job[Email]) error {
		if calls++; calls == 1 {
			return bearmq.Snooze(0) // "not now": no attempt is used up
		}
		fmt.Println("call", calls, "is attempt", job.Attempt)
		return nil
	})))
	_, err := SendEmail.Enqueue(ctx, mq, Email{To: "ann@example.com"})
	check(err)
	check(bearmq.NewWorker(mq, bearmq.WorkerOptions{}).Drain(ctx))
	// Output: call 2 is attempt 1
}

func ExampleJobDefinition_Repeat() {
	mq, _, done := exampleContext()
	defer done()
	ctx, stop := context.WithCancel(context.Background())

	report := bearmq.Define(bearmq.Spec[bearmq.None]{Name: "report"})
	check(mq.Register(
		report.Handle(func(context.Context, *bearmq.Job[bearmq.None]) error {
			fmt.Println("report")
			stop()
			return nil
		}),
		report.Repeat(bearmq.Every(time.Second)),
	))
	check(bearmq.Run(ctx, bearmq.NewWorker(mq, bearmq.WorkerOptions{}), bearmq.NewOrchestrator(mq, bearmq.OrchestratorOptions{})))
	// Output: report
}

func ExampleContext_Pause() {
	ctx := context.Background()
	mq, _, done := exampleContext()
	defer done()

	check(mq.Register(SendEmail.Handle(func(context.Context, *bearmq.Job[Email]) error {
		fmt.Println("sent")
		return nil
	})))
	_, err := SendEmail.Enqueue(ctx, mq, Email{}, bearmq.InChannel("mail"))
	check(err)

	check(mq.Pause(ctx, "mail"))
	check(bearmq.NewWorker(mq, bearmq.WorkerOptions{}).Drain(ctx))
	fmt.Println("paused: nothing was sent")
	check(mq.Resume(ctx, "mail"))
	check(bearmq.NewWorker(mq, bearmq.WorkerOptions{}).Drain(ctx))
	// Output:
	// paused: nothing was sent
	// sent
}

func ExampleContext_Health() {
	ctx := context.Background()
	mq, pool, done := exampleContext()
	defer done()

	tx, err := pool.Begin(ctx) // somebody's long report
	check(err)
	defer func() { check(tx.Rollback(ctx)) }()

	health, err := mq.Health(ctx)
	check(err)
	for _, t := range health.Transactions {
		if t.PID == int(tx.Conn().PgConn().PID()) {
			fmt.Println("it is", t.State)
		}
	}
	// Output: it is idle in transaction
}

func ExampleContext_Subscribe() {
	ctx := context.Background()
	mq, _, done := exampleContext()
	defer done()

	check(mq.Register(SendEmail.Handle(func(context.Context, *bearmq.Job[Email]) error { return nil })))
	events := mq.Subscribe(100)
	_, err := SendEmail.Enqueue(ctx, mq, Email{})
	check(err)
	check(bearmq.NewWorker(mq, bearmq.WorkerOptions{Name: "w1"}).Drain(ctx))
	events.Close()
	for e := range events.C {
		fmt.Println(e.Kind())
	}
	// Output:
	// JOB_DEFINITION_JOB_ENQUEUE
	// JOB_DEFINITION_DEPLOY
	// DAEMON_START
	// WORKER_JOB_DEQUEUE
	// WORKER_JOB_RUN
	// WORKER_JOB_RUN_SUCCESS
	// DAEMON_STOP
}

func ExampleMiddleware() {
	ctx := context.Background()
	pool, schema, done := pgtest.Example()
	defer done()
	mq, err := bearmq.New(pool, bearmq.Options{Schema: schema, Middleware: []bearmq.Middleware{
		func(next bearmq.Handler) bearmq.Handler {
			return func(ctx context.Context, job *bearmq.RawJob) error {
				fmt.Println("before", job.Name)
				err := next(ctx, job)
				fmt.Println("after", job.Name)
				return err
			}
		},
	}})
	check(err)
	check(mq.Migrate(ctx))
	check(mq.Register(SendEmail.Handle(func(context.Context, *bearmq.Job[Email]) error {
		fmt.Println("sent")
		return nil
	})))
	_, err = SendEmail.Enqueue(ctx, mq, Email{})
	check(err)
	check(bearmq.NewWorker(mq, bearmq.WorkerOptions{}).Drain(ctx))
	// Output:
	// before send_email
	// sent
	// after send_email
}
