package demo

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/bearmq/bearmq"
	"github.com/bearmq/bearmq/cmd/bearmq/internal/orders"
)

// The application of the demo: a shop that books orders in its customers'
// accounts, and reports now and then.

const (
	express = "HIGH" // the channel of express orders
	reports = "reports"

	sessionTTL  = 5 * time.Second
	reportEvery = 2 * time.Second
)

// bookOrder books one order. A customer's orders are a group, and strict: one
// that waits for its next attempt lets none of the same customer pass.
var bookOrder = bearmq.Define(bearmq.Spec[orders.Order]{
	Name:       "book_order",
	Attempts:   5,
	Backoff:    bearmq.Constant(50 * time.Millisecond),
	Timeout:    30 * time.Second,
	Group:      func(o orders.Order) string { return "customer " + strconv.Itoa(o.Customer) },
	GroupOrder: bearmq.Strict,
})

// report is repeated by the orchestrator and runs in any of the workers.
var report = bearmq.Define(bearmq.Spec[bearmq.None]{Name: "report", Channel: reports, Timeout: 10 * time.Second})

// job is the order as a job: express orders have a channel of their own.
func job(o orders.Order) bearmq.NewJob {
	if o.Express {
		return bookOrder.Job(o, bearmq.InChannel(express))
	}
	return bookOrder.Job(o)
}

// A shop is the application's side of the database.
type shop struct {
	pool   *pgxpool.Pool
	schema string // of its own tables, quoted
}

func newShop(pool *pgxpool.Pool, schema string) *shop {
	return &shop{pool, pgx.Identifier{schema + "_shop"}.Sanitize()}
}

// create makes the tables.
func (s *shop) create(ctx context.Context) error {
	_, err := s.pool.Exec(ctx, fmt.Sprintf(`
		CREATE SCHEMA %[1]s;
		CREATE TABLE %[1]s.account (
			customer integer PRIMARY KEY,
			balance  bigint NOT NULL DEFAULT 0,
			booked   integer NOT NULL DEFAULT 0  -- orders
		) WITH (fillfactor = 50);
		CREATE TABLE %[1]s.ledger (
			customer  integer,
			seq       integer,           -- counts the customer's bookings
			number    integer NOT NULL,  -- of the order; not unique: the check at the end is to see what was booked twice
			channel   text NOT NULL,
			cents     bigint NOT NULL,
			balance   bigint NOT NULL,   -- after it
			attempt   integer NOT NULL,
			latency   interval NOT NULL, -- since it was enqueued
			PRIMARY KEY (customer, seq)
		)`, s.schema))
	return err
}

func (s *shop) drop(ctx context.Context) error {
	_, err := s.pool.Exec(ctx, "SET client_min_messages = warning; DROP SCHEMA IF EXISTS "+s.schema+" CASCADE; RESET client_min_messages")
	return err
}

// book is the handler of bookOrder: a payment, then the booking and the end of
// the job in one transaction, so that an order is booked exactly once.
func (s *shop) book(p *payments) func(context.Context, *bearmq.Job[orders.Order]) error {
	booking := fmt.Sprintf(`
		WITH a AS (
			INSERT INTO %[1]s.account AS a (customer, balance, booked) VALUES ($1, $2, 1)
			ON CONFLICT (customer) DO UPDATE SET balance = a.balance + $2, booked = a.booked + 1
			RETURNING balance, booked)
		INSERT INTO %[1]s.ledger (customer, seq, number, channel, cents, balance, attempt, latency)
		SELECT $1, a.booked, $3, $4, $2, a.balance, $5, clock_timestamp() - $6::timestamptz FROM a`, s.schema)
	return func(ctx context.Context, job *bearmq.Job[orders.Order]) error {
		order := job.Payload
		if err := p.charge(ctx, order, job.Attempt); err != nil {
			return err
		}
		return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, booking, order.Customer, order.Cents, order.Number, job.Channel, job.Attempt, job.EnqueuedAt); err != nil {
				return err
			}
			return job.CompleteTx(ctx, tx)
		})
	}
}

// status is what the report says.
func (s *shop) status(ctx context.Context) (booked int, cents int64, err error) {
	err = s.pool.QueryRow(ctx, "SELECT coalesce(sum(booked), 0), coalesce(sum(balance), 0)::bigint FROM "+s.schema+".account").Scan(&booked, &cents)
	return booked, cents, err
}

// An entry is a row of the ledger.
type entry struct {
	Customer, Seq, Number int
	Channel               string
	Cents, Balance        int64
	Attempt               int
	Latency               time.Duration
}

// ledger is all that was booked, each customer's entries in their order.
func (s *shop) ledger(ctx context.Context) ([]entry, error) {
	rows, err := s.pool.Query(ctx, "SELECT customer, seq, number, channel, cents, balance, attempt, latency FROM "+s.schema+".ledger ORDER BY customer, seq")
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[entry])
}

// balances are the customers' balances.
func (s *shop) balances(ctx context.Context) (map[int]int64, error) {
	rows, err := s.pool.Query(ctx, "SELECT customer, balance FROM "+s.schema+".account")
	if err != nil {
		return nil, err
	}
	all := map[int]int64{}
	var customer int
	var balance int64
	_, err = pgx.ForEachRow(rows, []any{&customer, &balance}, func() error {
		all[customer] = balance
		return nil
	})
	return all, err
}

// payments stand for another company's service: slow, and sometimes it fails.
type payments struct {
	held    chan struct{} // closed: no payment ends any more
	started chan struct{} // has a word once a payment was begun
	under   atomic.Int64  // way
}

func newPayments() *payments {
	return &payments{held: make(chan struct{}), started: make(chan struct{}, 1)}
}

var errDeclined = errors.New("the payment service did not answer")

// charge takes 3 to 10 ms. Which attempts of which orders fail is the same in
// every run.
func (p *payments) charge(ctx context.Context, o orders.Order, attempt int) error {
	p.under.Add(1)
	defer p.under.Add(-1)
	select {
	case p.started <- struct{}{}:
	default:
	}
	answer := time.NewTimer(time.Duration(3+o.Number%8) * time.Millisecond)
	defer answer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-answer.C:
	}
	select {
	case <-p.held:
		<-ctx.Done()
		return context.Cause(ctx)
	default:
	}
	if declined(o.Number, attempt) {
		return errDeclined
	}
	return nil
}

// declined: 2 % of the orders fail at first, a quarter of those once more.
func declined(number, attempt int) bool {
	h := uint32(number) * 2_654_435_761 >> 16 % 1000 // scatters them
	switch attempt {
	case 1:
		return h < 20
	case 2:
		return h < 5
	default:
		return false
	}
}
