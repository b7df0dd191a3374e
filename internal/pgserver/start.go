package pgserver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// readyTimeout bounds a start whose ctx has no deadline. Recovery after a crash
// is part of it.
const readyTimeout = 2 * time.Minute

// errPortTaken says that another process has the port.
var errPortTaken = errors.New("the port is taken")

// start runs the server and waits until it answers. The keeper before stays
// until the new one guards the directory.
func (s *Server) start(ctx context.Context) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, readyTimeout, fmt.Errorf("it did not answer within %v", readyTimeout))
		defer cancel()
	}
	if err := s.configure(); err != nil {
		return err
	}
	started := time.Now()
	for attempt := 1; ; attempt++ {
		if s.anyPort && s.url == "" {
			port, err := freePort()
			if err != nil {
				return err
			}
			s.port = port
		}
		err := s.launch(ctx)
		if err == nil {
			break
		}
		if s.keeper != nil && s.keeper.running() {
			err = errors.Join(err, s.halt(s.keeper.quit, 10*time.Second))
		}
		if !errors.Is(err, errPortTaken) || attempt == 10 {
			return err
		}
		s.log.Info("the port is taken, trying again", "port", s.port)
		if s.url != "" || !s.anyPort { // the same port: it may be free in a moment
			if !pause(ctx, 200*time.Millisecond) {
				return err
			}
		}
	}
	if s.url == "" { // once: URL reads it without the lock
		s.url = fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres?sslmode=disable", s.port)
	}
	s.log.Info("started a private PostgreSQL", "version", s.bin.major, "bin", s.bin.dir,
		"data", s.dir, "port", s.port, "after", time.Since(started))
	return nil
}

// launch starts the server once.
func (s *Server) launch(ctx context.Context) error {
	s.logAt = 0
	if info, err := os.Stat(s.logFile()); err == nil {
		s.logAt = info.Size()
	}
	stale := s.pidFile()
	before := s.keeper
	if before != nil {
		_, _ = before.status() // reaps it, unless somebody has killed the keeper
	}
	next, err := keep(job{
		account: s.account,
		args: []string{
			s.bin.path("postgres"), "-D", s.dir,
			"-c", "config_file=" + filepath.Join(s.dir, configFile),
			"-c", "listen_addresses=127.0.0.1",
			"-c", "port=" + strconv.Itoa(s.port),
			"-c", "unix_socket_directories=" + s.sockets,
			"-c", "log_destination=stderr", "-c", "logging_collector=off",
		},
		env:    cleanEnv(s.bin.dir),
		log:    s.logFile(),
		remove: s.removable(),
	})
	if err != nil {
		return err
	}
	s.keeper = next
	if before != nil {
		if err := before.leave(); err != nil {
			return err
		}
	}
	return s.awaitReady(ctx, stale)
}

// awaitReady waits until the server answers. It connects only when postmaster.pid
// says that this is worth trying, so that the log is not full of refusals; stale
// is what the file held before the start.
func (s *Server) awaitReady(ctx context.Context, stale string) error {
	config, err := pgx.ParseConfig(fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres?sslmode=disable&connect_timeout=5", s.port))
	if err != nil {
		return err
	}
	for {
		// A server that ended cannot answer, but another one on its port can.
		if !s.keeper.running() {
			tail := s.logTail()
			if strings.Contains(tail, "could not create any TCP/IP sockets") {
				return fmt.Errorf("%w: 127.0.0.1:%d", errPortTaken, s.port)
			}
			return fmt.Errorf("the server ended at once; the last lines of its log:\n%s", tail)
		}
		err := errors.New("its postmaster.pid does not say ready")
		if now := s.pidFile(); now != stale && saysReady(now) {
			var dir string
			if dir, err = dataDirectory(ctx, config); err == nil && dir == s.dir {
				return s.checkPID(now)
			}
			if err == nil {
				err = fmt.Errorf("another server answers on port %d", s.port)
			}
		}
		if !pause(ctx, 10*time.Millisecond) {
			return fmt.Errorf("the server does not answer (%w): %w; the last lines of its log:\n%s", context.Cause(ctx), err, s.logTail())
		}
	}
}

// dataDirectory asks the server for its data directory, which tells it from
// another one that has taken the port.
func dataDirectory(ctx context.Context, config *pgx.ConnConfig) (dir string, err error) {
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	err = conn.QueryRow(ctx, "SELECT current_setting('data_directory')").Scan(&dir)
	return dir, err
}

// pidFile is the text of postmaster.pid, empty when there is none.
func (s *Server) pidFile() string {
	text, err := os.ReadFile(filepath.Join(s.dir, "postmaster.pid"))
	if err != nil {
		return ""
	}
	return string(text)
}

// saysReady reads the eighth line of postmaster.pid, which is the server's state.
func saysReady(pidFile string) bool {
	lines := strings.Split(pidFile, "\n")
	return len(lines) >= 8 && strings.TrimSpace(lines[7]) == "ready"
}

// checkPID makes sure that signals go to PostgreSQL itself. A wrapper script
// that does not exec it would take them instead.
func (s *Server) checkPID(pidFile string) error {
	first, _, _ := strings.Cut(pidFile, "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil {
		return fmt.Errorf("postmaster.pid: %w", err)
	}
	if pid == s.keeper.pid {
		return nil
	}
	s.keeper.pid = pid // so that it can be stopped
	return fmt.Errorf("%s is a wrapper that does not become PostgreSQL (exec): set BEARMQ_PG_BIN to the directory of the real programs", s.bin.path("postgres"))
}

// freePort returns a port on 127.0.0.1 that nobody listens on. It keeps away
// from the ports that systems give to outgoing connections (from 32768 on): one
// of those would be lost to any client while the server is down.
func freePort() (int, error) {
	for range 100 {
		port := 20000 + rand.IntN(12000)
		l, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		return port, l.Close()
	}
	return 0, errors.New("no free port on 127.0.0.1 between 20000 and 32000")
}

// pause waits for d; false says that ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
