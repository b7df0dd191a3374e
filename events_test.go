package bearmq

import (
	"bytes"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestEventHandlers(t *testing.T) {
	t.Parallel()
	var logged bytes.Buffer
	mq := offline(t, Options{Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	assert.False(t, mq.observed())
	mq.emit(JobStarted{}) // to nobody

	var first, second []Event
	removeFirst := mq.AddEventHandler(func(e Event) { first = append(first, e) })
	removePanicking := mq.AddEventHandler(func(Event) { panic("a bad handler") })
	removeSecond := mq.AddEventHandler(func(e Event) { second = append(second, e) })
	assert.True(t, mq.observed())

	event := JobErrored{About: About{JobID: 7, Definition: "x"}, Duration: time.Second}
	mq.emit(event)
	assert.Equal(t, []Event{event}, first)
	assert.Equal(t, []Event{event}, second)
	assert.Contains(t, logged.String(), "a bad handler")
	assert.Contains(t, logged.String(), string(KindJobErrored))

	removeFirst()
	removeFirst()
	removePanicking()
	mq.emit(JobStarted{})
	assert.Len(t, first, 1)
	assert.Len(t, second, 2)
	removeSecond()
	assert.False(t, mq.observed())
}

func TestEventHandlerRemovesItself(t *testing.T) {
	t.Parallel()
	mq := offline(t, Options{})
	calls := 0
	var remove func()
	remove = mq.AddEventHandler(func(Event) { calls++; remove() })
	mq.emit(JobStarted{})
	mq.emit(JobStarted{})
	assert.Equal(t, 1, calls)
}

func TestSubscribe(t *testing.T) {
	t.Parallel()
	mq := offline(t, Options{})
	sub := mq.Subscribe(2)
	for id := range JobID(5) {
		mq.emit(JobSucceeded{About: About{JobID: id}})
	}
	assert.Equal(t, int64(3), sub.Dropped())
	sub.Close()
	sub.Close()
	mq.emit(JobSucceeded{})
	assert.False(t, mq.observed())
	var ids []JobID
	for e := range sub.C {
		ids = append(ids, e.Common().JobID)
	}
	assert.Equal(t, []JobID{0, 1}, ids)
	assert.Equal(t, int64(3), sub.Dropped())

	least := mq.Subscribe(-1)
	defer least.Close()
	mq.emit(JobStarted{})
	assert.IsType(t, JobStarted{}, <-least.C)
}

// For the race detector: events, subscriptions and their ends at once.
func TestEventsConcurrently(t *testing.T) {
	t.Parallel()
	mq := offline(t, Options{})
	kept := mq.Subscribe(10_000)
	defer kept.Close()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 500 {
				mq.emit(JobStarted{})
			}
		})
		all.Go(func() {
			for range 500 {
				sub := mq.Subscribe(1)
				remove := mq.AddEventHandler(func(Event) {})
				sub.Close()
				remove()
			}
		})
	}
	all.Wait()
	assert.Len(t, kept.C, 4000)
	assert.Zero(t, kept.Dropped())
}

func TestKindsAreDistinct(t *testing.T) {
	t.Parallel()
	events := []Event{
		JobDefinitionDeployed{}, JobEnqueued{}, JobDequeued{}, JobOrphaned{}, JobExpired{}, JobStarted{},
		JobErrored{}, JobSucceeded{}, JobCancelled{}, JobStuck{}, LeaseLost{}, JobScheduled{}, ScheduleSkipped{}, ScheduleOrphaned{},
		JobRecovered{}, GroupUnlocked{}, JobsDeleted{}, JobGroupsDeleted{}, DatabaseWarned{}, DaemonStarted{}, DaemonStopped{}, DaemonFailing{},
	}
	kinds := map[Kind]bool{}
	for _, e := range events {
		require.NotEmpty(t, e.Kind())
		kinds[e.Kind()] = true
	}
	assert.Len(t, kinds, len(events))
}
