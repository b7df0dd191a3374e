package bearmq

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// Health is what slows BearMQ from outside, for gauges. An orchestrator warns
// of it.
type Health struct {
	// Transactions are the ten of this database that have been open for
	// longest, the oldest first. While one is open PostgreSQL can remove no
	// row that was deleted since. BearMQ goes on nearly as fast, but its tables
	// grow. Those of other roles are seen by members of pg_read_all_stats only.
	Transactions []Transaction
	// NotifyQueue is how full PostgreSQL's queue of notifications is, from 0 to
	// 1. It fills where a session that listens stays in a transaction. From 0.5
	// BearMQ sends no more of them, and workers find jobs by polling; at 1 the
	// commits of others who notify fail.
	NotifyQueue float64
	// LiveRows and DeadRows are those of BearMQ's tables, as PostgreSQL
	// estimates. Vacuum removes dead ones.
	LiveRows, DeadRows int64
}

// A Transaction is one that is open, of any session of the database.
type Transaction struct {
	// PID is the server's process, for pg_terminate_backend; 0 where the
	// transaction was prepared.
	PID int
	// Prepared is the name of a prepared transaction, for ROLLBACK PREPARED.
	Prepared string
	// Application, User and Host are those of the session; Host is empty for a
	// Unix socket.
	Application, User, Host string
	// State is what the session does, as in pg_stat_activity: "idle in
	// transaction" is the usual culprit.
	State string
	// Age is how long the transaction has been open, by the database's clock.
	Age time.Duration
}

// String names the transaction and says how to end it.
func (t Transaction) String() string {
	if t.Prepared != "" {
		return fmt.Sprintf("the prepared transaction %q of %s, open for %v: ROLLBACK PREPARED '%s' ends it",
			t.Prepared, t.User, t.Age.Round(time.Second), strings.ReplaceAll(t.Prepared, "'", "''"))
	}
	who := t.User
	if t.Host != "" {
		who += " at " + t.Host
	}
	return fmt.Sprintf("process %d (%q of %s, %s), in a transaction for %v: SELECT pg_terminate_backend(%d) ends it",
		t.PID, t.Application, who, t.State, t.Age.Round(time.Second), t.PID)
}

// healthTransactions is how many transactions a Health has.
const healthTransactions = 10

// Health looks at the database. It reads PostgreSQL's views of its sessions and
// statistics, not the jobs, so it may be called every few seconds.
func (mq *Context) Health(ctx context.Context) (*Health, error) {
	h, err := mq.store.Health(ctx, healthTransactions)
	if err != nil {
		return nil, err
	}
	all := make([]Transaction, len(h.Transactions))
	for i, t := range h.Transactions {
		all[i] = Transaction(t)
	}
	return &Health{all, h.NotifyQueue, h.Live, h.Dead}, nil
}

// A watcher warns of what slows BearMQ from outside, as long as it lasts.
type watcher struct {
	*daemon
	long time.Duration // a transaction is worth a warning
}

// fullQueue is from when no notifications are sent any more: notify_lanes_v1
// has the same.
const fullQueue = 0.5

func (w *watcher) tick(ctx context.Context) (time.Duration, error) {
	h, err := w.mq.Health(ctx)
	if err != nil {
		return 0, err
	}
	for i, t := range h.Transactions {
		if t.Age >= w.long {
			w.warn("vacuum is held back by "+t.String(), &h.Transactions[i], h)
		}
	}
	if h.NotifyQueue >= fullQueue {
		w.warn(fmt.Sprintf("the queue of notifications is full to %.0f %%: workers poll, until the session that listens in a transaction ends it", 100*h.NotifyQueue), nil, h)
	}
	return 0, nil
}

func (w *watcher) warn(problem string, t *Transaction, h *Health) {
	w.mq.log.Warn("bearmq: "+problem, "daemon", w.name)
	w.mq.emit(DatabaseWarned{About{Time: time.Now(), Worker: w.name}, problem, t, h})
}
