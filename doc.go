// Package bearmq runs background jobs on PostgreSQL: a job is enqueued in the
// transaction that gives rise to it, and runs at least once after the commit,
// whatever crashes.
//
// # Three things
//
// A definition says what a kind of job is: its name, its payload and its
// defaults. It is a package-level value that whoever enqueues and whoever
// runs such jobs share; see [Define] and [Spec].
//
//	var SendEmail = bearmq.Define(bearmq.Spec[Email]{
//		Name:     "send_email",
//		Channel:  "mail",
//		Attempts: 5,
//		Backoff:  bearmq.Exponential(),
//		Timeout:  30 * time.Second,
//		Group:    func(e Email) string { return e.Tenant },
//	})
//
// A [Context] is a schema in a database; the variable is called mq. It needs
// no closing, and making it starts nothing.
//
//	mq, err := bearmq.New(pool, bearmq.Options{Schema: "jobs"})
//
// A handler runs the jobs of a definition. It is registered with the Context
// of the process that is to run them, and has what it needs by closure; see
// [JobDefinition.Handle] and [Context.Register].
//
//	err = mq.Register(SendEmail.Handle(func(ctx context.Context, job *bearmq.Job[Email]) error {
//		return mailer.Send(ctx, job.Payload)
//	}))
//
// # Running
//
// [Context.Migrate] makes the schema. [Run] runs workers ([NewWorker]) and
// orchestrators ([NewOrchestrator]) until its context ends. At least one
// orchestrator must run somewhere: it makes the jobs of schedules, recovers what
// dead processes held, and deletes what is finished.
//
//	err = mq.Migrate(ctx)
//	err = bearmq.Run(ctx, bearmq.NewWorker(mq, bearmq.WorkerOptions{}), bearmq.NewOrchestrator(mq, bearmq.OrchestratorOptions{}))
//
// # Enqueueing
//
// [JobDefinition.Enqueue] makes one job, [JobDefinition.EnqueueMany] and
// [JobDefinition.EnqueueSeq] make many, [Context.EnqueueBatch] makes jobs of
// several definitions, and [Context.EnqueueRaw] one by name. Each makes all
// of its jobs or none. Where the jobs go is an argument: the Context, or the
// caller's transaction.
//
//	id, err := SendEmail.Enqueue(ctx, mq, email, bearmq.Delay(time.Minute))
//	id, err := SendEmail.Enqueue(ctx, mq.In(tx), email)
//
// Options such as [Delay], [RunAt], [InChannel] and [Attempts] change one
// enqueue. Values that cannot be stored are refused before any SQL runs, with
// a [*FieldError], so that the caller's transaction stays usable.
//
// # Channels and groups
//
// A channel is a queue: workers serve some channels or all. A group excludes:
// no two jobs of a group run at the same time, whatever their definitions and
// channels. See [Spec].Group and [GroupOrder].
//
// # Failing and retrying
//
// A handler that returns an error, panics or exits has failed an attempt.
// What follows is in the definition ([Spec].Attempts, [Spec].Backoff) or in
// the error: [Permanent], [RetryAfter], [Snooze]. Attempts count what handlers
// failed. A job whose process died runs again without having used one, until
// that has happened [Options].MaxLosses times.
//
// A handler's context ends with a cause, read with [context.Cause]:
// [ErrTimeout], [ErrShutdown] or [ErrLeaseLost].
//
// # Results
//
// [DefineResult] makes a definition whose handler returns a value, read with
// [ResultDefinition.Result].
//
// # Schedules
//
// [JobDefinition.Repeat] makes a job of a definition without payload at each
// slot of a [Schedule], such as [Every] or [Cron]; [JobDefinition.RepeatWith]
// makes one with a payload. They are registered like handlers. [CatchUp] and
// [Jitter] change what is made of the slots; [Context.Schedules],
// [Context.PauseSchedule] and their like manage them at run time.
//
// # Watching
//
// [Context.AddEventHandler] and [Context.Subscribe] give what happens as
// values of the type [Event]. [Middleware] wraps handlers, for one
// definition or for all.
package bearmq
