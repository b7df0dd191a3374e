package bearmq_test

import (
	"context"
	"fmt"
	"time"

	"github.com/bearmq/bearmq"
)

// The clocks of New York went forward on 8 March 2026, at two o'clock.
func ExampleCron() {
	schedule := bearmq.Cron("30 2 * * *", "America/New_York")
	fmt.Println(schedule)
	slot := time.Date(2026, 3, 6, 12, 0, 0, 0, time.UTC)
	for range 4 {
		slot = schedule.Next(slot)
		fmt.Println(slot)
	}
	// Output:
	// cron 30 2 * * * America/New_York
	// 2026-03-07 02:30:00 -0500 EST
	// 2026-03-08 03:00:00 -0400 EDT
	// 2026-03-09 02:30:00 -0400 EDT
	// 2026-03-10 02:30:00 -0400 EDT
}

func ExampleSchedule_Preview() {
	for _, slot := range bearmq.Cron("0 9 1 1 *", "Europe/Berlin").Preview(3) {
		fmt.Println(slot.Format("2 January, 15:04 MST"))
	}
	// Output:
	// 1 January, 09:00 CET
	// 1 January, 09:00 CET
	// 1 January, 09:00 CET
}

func ExampleContext_PauseSchedule() {
	mq, _, done := exampleContext()
	defer done()
	ctx, stop := context.WithCancel(context.Background())

	report := bearmq.Define(bearmq.Spec[bearmq.None]{Name: "report"})
	check(mq.Register(
		report.Handle(func(ctx context.Context, _ *bearmq.Job[bearmq.None]) error {
			defer stop()
			check(mq.PauseSchedule(ctx, "report"))
			schedules, err := mq.Schedules(ctx)
			check(err)
			for _, s := range schedules {
				fmt.Printf("%s: %s, paused: %v\n", s.Definition, s.Schedule, s.Paused)
			}
			return nil
		}),
		report.Repeat(bearmq.Every(2*time.Second)),
	))
	check(bearmq.Run(ctx, bearmq.NewWorker(mq, bearmq.WorkerOptions{}), bearmq.NewOrchestrator(mq, bearmq.OrchestratorOptions{})))
	// Output: report: every 2s, paused: true
}

func ExampleCatchUp() {
	bill := bearmq.Define(bearmq.Spec[string]{Name: "bill"})
	monthly := bill.RepeatWith(bearmq.Cron("@monthly", "Asia/Tokyo"), func(slot time.Time) string {
		return slot.AddDate(0, -1, 0).Format("2006-01") // the month that is over
	}, bearmq.CatchUp(12), bearmq.Jitter(time.Minute))

	mq, _, done := exampleContext()
	defer done()
	fmt.Println(mq.Register(monthly))
	// Output: <nil>
}
