package pgserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// ErrNotPrivate is returned by the methods that stop or start a server, when the
// server is somebody else's.
var ErrNotPrivate = errors.New("the server was not started here (DATABASE_URL): it is neither stopped nor started")

// Options says which server is wanted. The zero value is the server of
// DATABASE_URL, else a private one that leaves nothing behind.
type Options struct {
	// URL is the connection string of a running server. Empty means that of the
	// environment variable DATABASE_URL; when that is empty too, a private server
	// is started.
	URL string

	// Private asks for a private server whatever DATABASE_URL says, for instance
	// because it will be crashed.
	Private bool

	// DataDir is the data directory of the private server. It is created when
	// missing, kept after Close, and used again by a later Open. It must be empty
	// or made by an earlier Open. Empty means a temporary directory that Close
	// removes.
	DataDir string

	// Settings are configuration parameters of the private server, above those
	// of this package. A running server of DATABASE_URL is left as it is.
	Settings map[string]string

	// Port is the port of the private server on 127.0.0.1. 0 means a free one.
	Port int

	// Logger takes what happens to the private server. Nil means no logging.
	Logger *slog.Logger
}

// Server is a PostgreSQL server: a private one, or that of DATABASE_URL.
// Its methods may be called concurrently.
type Server struct {
	url    string
	log    *slog.Logger
	places places

	// The rest is of a private server.
	private  bool
	account  account
	bin      binaries
	dir      string // the data directory
	kept     bool   // dir survives Close
	sockets  string // the socket directory, empty when there is no socket
	port     int
	anyPort  bool // the port was not asked for: another one will do
	settings map[string]string

	mu     sync.Mutex // held while the server is started or stopped
	keeper *keeper    // of the last job; nil after Close
	logAt  int64      // where the log of the last start begins
}

// Open returns a server that answers. ctx bounds the start, not the server's
// life. It returns a [*NotFoundError] when a private server is wanted and this
// machine has no PostgreSQL. Close the server at the end.
func Open(ctx context.Context, o Options) (*Server, error) {
	return open(ctx, o, systemPlaces())
}

func open(ctx context.Context, o Options, in places) (*Server, error) {
	s := &Server{log: o.Logger, places: in, settings: o.Settings, port: o.Port, anyPort: o.Port == 0}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if o.Private && o.URL != "" {
		return nil, errors.New("Options.URL and Options.Private exclude each other")
	}
	from := "Options.URL"
	if s.url = o.URL; s.url == "" && !o.Private {
		s.url, from = os.Getenv("DATABASE_URL"), "DATABASE_URL"
	}
	if s.url != "" {
		if o.DataDir != "" {
			return nil, fmt.Errorf("both %s and a data directory (%s) are given: the data directory is of a private server, unset one of them", from, o.DataDir)
		}
		if err := checkRunning(ctx, s.url); err != nil {
			return nil, fmt.Errorf("the server of %s cannot be used: %w", from, err)
		}
		return s, nil
	}
	if o.Port < 0 || o.Port > 65535 {
		return nil, fmt.Errorf("Options.Port: %d is not a port", o.Port)
	}
	s.private = true
	if err := s.openPrivate(ctx, o.DataDir); err != nil {
		return nil, fmt.Errorf("starting a private PostgreSQL: %w", err)
	}
	return s, nil
}

// checkRunning connects once and looks at the version.
func checkRunning(ctx context.Context, connString string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, connString)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	var version int
	if err := conn.QueryRow(ctx, "SELECT current_setting('server_version_num')::int").Scan(&version); err != nil {
		return err
	}
	if version/10000 < minMajor {
		return fmt.Errorf("it is PostgreSQL %d, at least %d is needed", version/10000, minMajor)
	}
	return nil
}

// URL is the connection string: of the database postgres on 127.0.0.1 as its
// superuser for a private server, else what was given.
func (s *Server) URL() string { return s.url }

// SocketURL is URL through the Unix socket in the private directory. It is URL
// itself when there is no socket.
func (s *Server) SocketURL() string {
	if s.sockets == "" {
		return s.url
	}
	q := url.Values{"host": {s.sockets}, "port": {strconv.Itoa(s.port)}, "user": {"postgres"}}
	return "postgres:///postgres?" + strings.ReplaceAll(q.Encode(), "+", "%20") // a + is read as one
}

// Private says whether the server was started here.
func (s *Server) Private() bool { return s.private }

// BinDir is the directory of the programs that the private server was started
// with, which holds psql and pg_dump where these are installed. It is empty for
// a server of DATABASE_URL.
func (s *Server) BinDir() string { return s.bin.dir }

// DataDir is the data directory of the private server, empty for another one.
func (s *Server) DataDir() string { return s.dir }

// PID is the process of the private server (the postmaster), 0 when none runs.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keeper == nil || !s.keeper.running() {
		return 0
	}
	return s.keeper.pid
}

// LogTail is the last lines that the private server has logged since its last start.
func (s *Server) LogTail() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.logTail()
}

func (s *Server) logTail() string {
	if !s.private {
		return ""
	}
	return tailOfFile(s.logFile(), s.logAt, 20)
}

// Start starts the private server again after Stop, Crash or its death, on the
// same data and port, and waits until it answers.
func (s *Server) Start(ctx context.Context) error {
	return s.control(func() error {
		if s.keeper.running() {
			return errors.New("the server runs already")
		}
		return s.start(ctx)
	})
}

// Stop stops the private server in the orderly way that ends sessions (fast
// shutdown). Its data stay until Close.
func (s *Server) Stop() error { return s.control(s.stop) }

// Restart is Stop and Start.
func (s *Server) Restart(ctx context.Context) error {
	return s.control(func() error {
		if err := s.stop(); err != nil {
			return err
		}
		return s.start(ctx)
	})
}

// Crash kills the private server and all its backends with SIGKILL, and returns
// when none of them holds a file or memory any more. Start recovers it.
func (s *Server) Crash() error {
	return s.control(func() error {
		if err := s.keeper.kill(); err != nil {
			return fmt.Errorf("killing the server: %w", err)
		}
		if !s.wait(10 * time.Second) {
			return errors.New("the server is still there 10 s after SIGKILL")
		}
		s.log.Info("crashed the private PostgreSQL", "data", s.dir)
		return nil
	})
}

// Close stops the private server and removes its directory, unless this is
// Options.DataDir. A server of DATABASE_URL is left alone. Calling it again does
// nothing.
func (s *Server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keeper == nil {
		return nil
	}
	k := s.keeper
	var err error
	if s.kept {
		err = s.stop()
	} else if err = s.halt(k.quit, 10*time.Second); err == nil {
		// An immediate stop: a checkpoint of data that are removed now is wasted.
		err = os.RemoveAll(s.dir)
	}
	s.keeper = nil
	if err != nil {
		return errors.Join(fmt.Errorf("stopping the private PostgreSQL: %w", err), k.abandon())
	}
	s.log.Info("stopped the private PostgreSQL", "data", s.dir, "kept", s.kept)
	return k.leave()
}

func (s *Server) control(do func() error) error {
	if !s.private {
		return ErrNotPrivate
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keeper == nil {
		return errors.New("the private PostgreSQL is closed")
	}
	return do()
}

// stop stops the server, politely first.
func (s *Server) stop() error { return s.halt(s.keeper.interrupt, 30*time.Second) }

func (s *Server) halt(ask func() error, patience time.Duration) error {
	for _, step := range []struct {
		do   func() error
		wait time.Duration
	}{{ask, patience}, {s.keeper.quit, 10 * time.Second}, {s.keeper.kill, 10 * time.Second}} {
		if err := step.do(); err != nil {
			return err
		}
		if s.wait(step.wait) {
			return nil
		}
		s.log.Warn("the private PostgreSQL has not stopped yet", "waited", step.wait)
	}
	return errors.New("the server is still there after SIGKILL")
}

// wait waits for the end of the server and all its backends.
func (s *Server) wait(most time.Duration) bool {
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-s.keeper.gone:
		_, _ = s.keeper.status() // reaps it; how it ended is known or does not matter
		return true
	case <-timer.C:
		return false
	}
}

func (s *Server) logFile() string { return filepath.Join(s.dir, "server.log") }
