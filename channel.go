package bearmq

import (
	"context"
	"fmt"
)

// A Channel is a queue that workers take jobs from. It comes into being when a
// job is first enqueued in it, when a definition that has it is deployed, or
// when it is first paused or resumed.
type Channel struct {
	Name string
	// Paused channels take jobs and run none.
	Paused bool
}

// Channels lists all channels by name.
func (mq *Context) Channels(ctx context.Context) ([]Channel, error) {
	stored, err := mq.store.Channels(ctx)
	if err != nil {
		return nil, fmt.Errorf("bearmq: list channels: %w", err)
	}
	all := make([]Channel, len(stored))
	for i, c := range stored {
		all[i] = Channel(c)
	}
	return all, nil
}

// Pause makes all workers stop taking jobs from a channel, also across
// restarts. Jobs that run go on, and jobs may be enqueued. Pausing twice is
// the same as once. A channel that does not exist yet is made, paused; mind the
// spelling. A name that no channel can have is a [*FieldError].
func (mq *Context) Pause(ctx context.Context, channel string) error {
	return mq.setPaused(ctx, channel, true)
}

// Resume takes a Pause back.
func (mq *Context) Resume(ctx context.Context, channel string) error {
	if err := mq.setPaused(ctx, channel, false); err != nil {
		return err
	}
	mq.wakes.lookAll()
	return nil
}

func (mq *Context) setPaused(ctx context.Context, channel string, paused bool) error {
	if err := checkName("Channel", channel); err != nil {
		return err
	}
	if err := mq.store.Pause(ctx, channel, paused); err != nil {
		return fmt.Errorf("bearmq: pause or resume channel %q: %w", channel, err)
	}
	return nil
}
