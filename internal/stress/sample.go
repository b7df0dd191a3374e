//go:build unix

package stress

import (
	"context"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// A Sample is how a run stands at one moment. What could not be had is nil,
// because the server was down or a process was frozen.
type Sample struct {
	At time.Duration // since the beginning

	Worker, Orchestrator *Vitals // of the first ones, which Faults.Spare may spare
	Producers            Vitals  // of the coordinator's process, which has the producers
	Starts               []time.Duration
	Claims               []time.Duration // Starts and Claims are those of all processes

	Connections map[string]int // of the workers, the orchestrators, and the producers
	Tables      map[string]Table
	Backlog     *int // jobs without an end
}

// A Table is the size of one of the library's.
type Table struct {
	Bytes int64 // with its indexes
	Live  int64 // rows
	Dead  int64 // rows, as the statistics have it: a crash of the server begins them anew
}

// sample takes samples until ctx ends.
func (r *coordinator) sample(ctx context.Context) {
	if r.Sample == 0 {
		return
	}
	began := time.Now()
	worker, orchestrator := nameOf(r.workers[0]), nameOf(r.orchestrators[0])
	tables, err := library(ctx, r.pool, r.Schema)
	if err != nil {
		r.fail(err)
		return
	}
	readers := map[string]*reader{} // by the name of the process
	for wait(ctx, r.Sample) {
		s := Sample{At: time.Since(began), Producers: measure()}
		if err := r.hear(&s, readers, worker, orchestrator); err != nil {
			r.fail(err)
			return
		}
		r.look(ctx, &s, tables)
		if ctx.Err() == nil {
			r.Sampled(s)
		}
	}
}

// hear reads what the processes have told of themselves.
func (r *coordinator) hear(s *Sample, readers map[string]*reader, worker, orchestrator string) error {
	files, err := filepath.Glob(filepath.Join(r.Dir, "*"+vitalsSuffix))
	if err != nil {
		return err
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), vitalsSuffix)
		if readers[name] == nil {
			readers[name] = &reader{}
		}
		told, err := readers[name].read(file)
		if err != nil {
			return err
		}
		for _, v := range told {
			s.Starts, s.Claims = append(s.Starts, v.Starts...), append(s.Claims, v.Claims...)
			switch name {
			case worker:
				s.Worker = &v
			case orchestrator:
				s.Orchestrator = &v
			}
		}
	}
	return nil
}

func nameOf(p *place) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.process.name
}

// look asks the database.
func (r *coordinator) look(ctx context.Context, s *Sample, tables []string) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if counted, err := r.connected(ctx); err == nil { // else the server may be down
		s.Connections = counted
	}
	if standing, err := r.standing(ctx); err == nil {
		unended := standing.unended()
		s.Backlog = &unended
	}
	sizes := map[string]Table{}
	for _, name := range tables {
		var t Table
		if err := r.pool.QueryRow(ctx, `SELECT pg_total_relation_size($1::text::regclass), pg_stat_get_dead_tuples($1::text::regclass), count(*) FROM `+
			table(r.Schema, name), table(r.Schema, name)).Scan(&t.Bytes, &t.Dead, &t.Live); err != nil {
			return
		}
		sizes[name] = t
	}
	s.Tables = sizes
}

func (r *coordinator) connected(ctx context.Context) (map[string]int, error) {
	n := map[string]int{"worker": 0, "orchestrator": 0, "producer": 0}
	rows, err := r.pool.Query(ctx, "SELECT application_name FROM pg_stat_activity WHERE application_name LIKE $1", r.application("%"))
	if err != nil {
		return nil, err
	}
	applications, err := pgx.CollectRows(rows, pgx.RowTo[string])
	for _, application := range applications {
		for kind := range n {
			if strings.HasPrefix(application, r.application(kind)) {
				n[kind]++
			}
		}
	}
	return n, err
}
