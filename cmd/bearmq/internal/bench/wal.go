package bench

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"
)

// A mark is a place in the WAL, and what pg_stat_wal said there.
type mark struct {
	lsn        string
	bytes, fpi float64
}

func (r *round) mark(ctx context.Context) (m mark, err error) {
	err = r.pool.QueryRow(ctx, sql("mark")).Scan(&m.lsn, &m.bytes, &m.fpi)
	return m, err
}

// How WAL bytes were counted.
const (
	byWalinspect = "pg_walinspect"
	byWaldump    = "pg_waldump"
	byEstimate   = "pg_stat_wal, less 8 kB a full-page image: too low"
)

// walBytes are the bytes of the WAL records between two marks without full-page
// images: those depend on the last checkpoint, not on the work. On a server
// with other databases in use, theirs count too.
func (r *round) walBytes(ctx context.Context, from, to mark) (bytes float64, how string, err error) {
	if err := r.awaitFlush(ctx, to); err != nil {
		return 0, "", err
	}
	if _, err := r.pool.Exec(ctx, "CREATE EXTENSION IF NOT EXISTS pg_walinspect"); err == nil {
		if err := r.pool.QueryRow(ctx, sql("wal_inspect"), from.lsn, to.lsn).Scan(&bytes); err == nil {
			return bytes, byWalinspect, nil
		}
	}
	if bytes, err := r.waldump(ctx, from, to); err == nil {
		return bytes, byWaldump, nil
	}
	if ctx.Err() != nil {
		return 0, "", context.Cause(ctx)
	}
	return max(to.bytes-from.bytes-8192*(to.fpi-from.fpi), 0), byEstimate, nil
}

// awaitFlush waits until the WAL is on disk up to m.
func (r *round) awaitFlush(ctx context.Context, m mark) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 10*time.Second, errors.New("the WAL has not been written to disk for 10 s"))
	defer cancel()
	// The position at a page's end is past the page's header, which only the next
	// record writes. What cannot be sent comes by itself in the end.
	_, _ = r.pool.Exec(ctx, sql("flush"))
	for {
		var flushed bool
		if err := r.pool.QueryRow(ctx, sql("wal_flushed"), m.lsn).Scan(&flushed); err != nil {
			return err
		}
		if flushed {
			return nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// The last line: Total, records, bytes of the records, their share, and so on.
var waldumpTotal = regexp.MustCompile(`(?m)^Total\s+\d+\s+(\d+)\s+\[`)

func (r *round) waldump(ctx context.Context, from, to mark) (float64, error) {
	if r.db.server.BinDir() == "" {
		return 0, errors.New("not on this machine")
	}
	out, err := exec.CommandContext(ctx, filepath.Join(r.db.server.BinDir(), "pg_waldump"), "--stats",
		"--path", filepath.Join(r.db.server.DataDir(), "pg_wal"), "--start", from.lsn, "--end", to.lsn).Output()
	if err != nil {
		return 0, fmt.Errorf("pg_waldump: %w", err)
	}
	total := waldumpTotal.FindSubmatch(out)
	if total == nil {
		return 0, errors.New("pg_waldump printed no total")
	}
	return strconv.ParseFloat(string(total[1]), 64)
}

// A walPart is the WAL of one part of a job's life.
type walPart struct {
	Name     string  `json:"part"`
	BytesJob float64 `json:"bytes_per_job"`
	How      string  `json:"how"`
}

// wal notes the WAL of a part of the life of n jobs.
func (r *round) wal(ctx context.Context, name string, from, to mark, n int) error {
	bytes, how, err := r.walBytes(ctx, from, to)
	if err != nil {
		return fmt.Errorf("counting WAL: %w", err)
	}
	r.f.WAL = append(r.f.WAL, walPart{name, bytes / float64(n), how})
	return nil
}
