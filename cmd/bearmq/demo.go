package main

import (
	"context"

	"github.com/bearmq/bearmq/cmd/bearmq/internal/demo"
)

const demoUsage = `bearmq demo [flags]

Sends the orders of a file through BearMQ. Each is a job in the group of its customer, so that a customer's orders are
booked one at a time and in order; some payments fail and are tried again; express orders have a channel and slots of
their own. Half way one of the worker processes is killed. At the end every balance, and every sequence of bookings of a
customer and channel, is compared with what one process makes of the file.

It starts a private PostgreSQL and removes it afterwards, or uses that of DATABASE_URL, where it drops the schemas
bearmq_demo and bearmq_demo_shop before and after.`

func runDemo(ctx context.Context, args []string, s streams) error {
	c := demo.Config{Out: s.out, Err: s.err, Terminal: s.terminal}
	f := newFlags("demo", demoUsage, s)
	f.StringVar(&c.File, "file", demo.DefaultFile, "the `file` of orders")
	f.IntVar(&c.Orders, "orders", 0, "take only the first `n` orders")
	f.IntVar(&c.Rate, "rate", 1250, "let `n` orders arrive in a second")
	f.StringVar(&c.DataDir, "data", "", "keep the private PostgreSQL in this `directory`")
	f.StringVar(&c.Database, "database", "", "use the server of this `URL` (default: that of DATABASE_URL, else a private one)")
	f.StringVar(&c.Schema, "schema", "bearmq_demo", "the `name` of the demo's schema, which it drops")
	f.BoolVar(&c.Verbose, "verbose", false, "write the library's log to standard error")
	if err := f.parseOnly(args); err != nil {
		return err
	}
	switch {
	case c.Orders < 0:
		return &usageError{"--orders must not be negative", "demo"}
	case c.Rate < 1:
		return &usageError{"--rate must be at least 1", "demo"}
	}
	c.JSON = f.json
	return demo.Run(ctx, c)
}
