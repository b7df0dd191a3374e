package bearmq

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A worker takes jobs of its channels only; one without channels takes all,
// also those that appear later.
func TestChannels(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	rest := sibling(t, mq)
	done, later := make(chan string, 100), make(chan string, 100)
	texts := Define(Spec[string]{Name: "texts"})
	handled(t, mq, texts, func(_ context.Context, j *Job[string]) error { done <- j.Payload + " " + j.Channel; return nil })
	handled(t, rest, texts, func(_ context.Context, j *Job[string]) error { later <- j.Payload + " " + j.Channel; return nil })
	enqueued(t, mq, texts, "1", InChannel("a"))
	enqueued(t, mq, texts, "2", InChannel("b"), InGroup("g"))
	enqueued(t, mq, texts, "3")
	enqueued(t, mq, texts, "4", InChannel("b"), Delay(time.Nanosecond))
	work(t, mq, WorkerOptions{Channels: []string{"a", "later"}, PollInterval: time.Hour})
	require.Equal(t, "1 a", soon(t, "a job", done))
	enqueued(t, mq, texts, "5", InChannel("b"))
	enqueued(t, mq, texts, "6", InChannel("later"))
	require.Equal(t, "6 later", soon(t, "a job of a channel that did not exist", done))

	w := work(t, rest, WorkerOptions{PollInterval: time.Hour})
	var all []string
	for range 4 {
		all = append(all, soon(t, "a job of the other channels", later))
	}
	require.ElementsMatch(t, []string{"2 b", "3 default", "4 b", "5 b"}, all)
	enqueued(t, rest, texts, "7", InChannel("brand new"))
	require.Equal(t, "7 brand new", soon(t, "a job of a new channel", later))
	require.NoError(t, w.stop(t))
	require.Empty(t, done)
}

// A paused channel runs nothing, whatever its jobs wait for and whoever asks,
// until it is resumed.
func TestPause(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	ctx := t.Context()
	texts := Define(Spec[string]{Name: "texts", Attempts: 2, Backoff: Constant(0)})
	events := listen(t, mq)
	fail, let := make(chan struct{}), make(chan struct{})
	handled(t, mq, texts, func(_ context.Context, j *Job[string]) error {
		if j.Payload == "retried" && j.Attempt == 1 {
			close(fail)
			<-let
			return errBoom
		}
		return nil
	})
	for range 2 {
		require.NoError(t, mq.Pause(ctx, "never used"))
	}
	// A job that runs goes on; its retry waits.
	enqueued(t, mq, texts, "retried", InChannel("a"), InGroup("g"))
	work(t, mq, WorkerOptions{PollInterval: 20 * time.Millisecond})
	soon(t, "the handler", fail)
	enqueued(t, mq, texts, "blocked", InChannel("a"), InGroup("g"))
	require.NoError(t, mq.Pause(ctx, "a"))
	close(let)
	await[JobErrored](t, events, 1)
	for _, o := range [][]EnqueueOption{{}, {InGroup("g")}, {InGroup("other")}, {Delay(time.Nanosecond)}, {Delay(time.Nanosecond), InGroup("g")}} {
		enqueued(t, mq, texts, "x", append(o, InChannel("a"))...)
	}
	enqueued(t, mq, texts, "x", InChannel("never used"))
	// Time for the worker to make a mistake: what comes after them is done.
	for range 5 {
		n := len(seen[JobSucceeded](events))
		enqueued(t, mq, texts, "y")
		await[JobSucceeded](t, events, n+1)
	}
	require.Len(t, seen[JobSucceeded](events), 5)
	drain(t, mq, WorkerOptions{}) // another worker does not either
	require.Len(t, seen[JobSucceeded](events), 5)

	channels, err := mq.Channels(ctx)
	require.NoError(t, err)
	require.Equal(t, []Channel{{"a", true}, {"default", false}, {"never used", true}}, channels)

	require.NoError(t, mq.Resume(ctx, "a"))
	require.NoError(t, mq.Resume(ctx, "a"))
	await[JobSucceeded](t, events, 12)
	require.NoError(t, mq.Resume(ctx, "never used"))
	await[JobSucceeded](t, events, 13)
}

func TestPauseRefusesWhatIsNoChannel(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	requireRefused(t, mq.Pause(t.Context(), ""), "Channel")
	requireRefused(t, mq.Resume(t.Context(), "a\nb"), "Channel")
}

// A group whose head is in a paused channel waits for it, as for any other.
func TestPausedHeadOfAGroup(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	events := listen(t, mq)
	handled(t, mq, numbers, func(context.Context, *Job[int]) error { return nil })
	_, err := mq.EnqueueBatch(t.Context(), numbers.Job(1, InGroup("g")), numbers.Job(2, InGroup("g"), InChannel("p")), numbers.Job(3, InGroup("g")))
	require.NoError(t, err)
	require.NoError(t, mq.Pause(t.Context(), "p"))
	drain(t, mq, WorkerOptions{})
	require.NoError(t, mq.Resume(t.Context(), "p"))
	drain(t, mq, WorkerOptions{})
	require.Len(t, seen[JobSucceeded](events), 3)
}
