package pgserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// configFile marks a cluster as one of ours, besides configuring it: no other
// one is ever started, given to another user, or written to.
const configFile = "bearmq.conf"

func (s *Server) openPrivate(ctx context.Context, dataDir string) (err error) {
	if _, err := configuration(s.settings); err != nil {
		return err
	}
	existing := false
	if dataDir != "" {
		if s.dir, err = filepath.Abs(dataDir); err != nil {
			return err
		}
		s.kept = true
		if existing, err = isOurs(s.dir); err != nil {
			return err
		}
	}
	if existing {
		if s.account, err = ownerAccount(s.dir); err != nil {
			return err
		}
	} else if s.account, err = serverAccount(); err != nil {
		return err
	}
	wantMajor := 0
	if existing {
		if wantMajor, err = clusterMajor(s.dir); err != nil {
			return err
		}
	}
	// Before anything is created, so that a machine without PostgreSQL stays as it is.
	if s.bin, err = find(ctx, s.places, s.account, wantMajor); err != nil {
		return err
	}
	if err := s.makeDir(); err != nil {
		return err
	}
	defer func() {
		if err == nil {
			return
		}
		if s.keeper != nil {
			err = errors.Join(err, s.keeper.abandon())
			s.keeper = nil
		} else if !s.kept {
			err = errors.Join(err, os.RemoveAll(s.dir))
		}
	}()
	// A socket's address holds some 104 bytes, its name up to 15 of them, and the
	// setting is a list with commas and quotes.
	if len(s.dir) < 85 && !strings.ContainsAny(s.dir, `,"`) {
		s.sockets = s.dir
	}
	if !existing {
		if err := s.initdb(ctx); err != nil {
			return err
		}
	}
	return s.start(ctx)
}

// isOurs says whether dir holds a cluster of this package. Anything else but an
// empty or missing directory is an error.
func isOurs(dir string) (bool, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) || err == nil && len(entries) == 0 {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if !slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() == configFile }) {
		return false, fmt.Errorf("the data directory %s is neither empty nor a cluster that BearMQ made (it holds no %s): choose another directory, or give a running server with DATABASE_URL", dir, configFile)
	}
	return true, nil
}

func clusterMajor(dir string) (int, error) {
	text, err := os.ReadFile(filepath.Join(dir, "PG_VERSION"))
	if err != nil {
		return 0, err
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("%s/PG_VERSION: %w", dir, err)
	}
	return major, nil
}

// makeDir makes the data directory, where the server's account can get to it.
func (s *Server) makeDir() error {
	if s.kept {
		if err := os.MkdirAll(filepath.Dir(s.dir), 0o755); err != nil {
			return err
		}
		if err := os.Mkdir(s.dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		if err := s.account.own(s.dir); err != nil {
			return err
		}
		if !s.account.canUse(s.dir) {
			return fmt.Errorf("the data directory %s cannot be used%s, because of the rights of a directory above it: choose one elsewhere, for example below /var/tmp", s.dir, s.account.suffix())
		}
		return nil
	}
	// The keeper must be able to remove the directory itself, so that entering
	// its parent is not enough.
	bases := []string{os.TempDir(), "/tmp", "/var/tmp"}
	for _, base := range bases {
		if base, err := filepath.Abs(base); err != nil || !s.account.canUse(base) {
			continue
		}
		dir, err := os.MkdirTemp(base, "bearmq-pg-")
		if err != nil {
			return err
		}
		if s.dir, err = filepath.Abs(dir); err != nil {
			return err
		}
		return s.account.own(s.dir)
	}
	return fmt.Errorf("no temporary directory can be written%s (tried %s): set TMPDIR", s.account.suffix(), strings.Join(bases, ", "))
}

// initdb makes the cluster. It runs below a keeper, which removes the directory
// when this process is gone meanwhile.
func (s *Server) initdb(ctx context.Context) (err error) {
	s.keeper, err = keep(job{
		account: s.account,
		args: []string{
			s.bin.path("initdb"), "--pgdata", s.dir, "--username", "postgres",
			"--encoding", "UTF8", "--locale", "C", "--auth", "trust", "--no-sync", "--no-instructions",
		},
		env:    cleanEnv(s.bin.dir),
		remove: s.removable(),
	})
	if err != nil {
		return err
	}
	select {
	case <-s.keeper.gone:
	case <-ctx.Done():
		return fmt.Errorf("interrupted during initdb: %w", context.Cause(ctx))
	}
	status, err := s.keeper.status()
	if err != nil {
		return fmt.Errorf("initdb: %w", err)
	}
	if status != 0 {
		return fmt.Errorf("initdb failed with status %d:\n%s", status, s.keeper.output)
	}
	return nil
}

func (s *Server) removable() string {
	if s.kept {
		return ""
	}
	return s.dir
}

// configure writes the configuration file.
func (s *Server) configure() error {
	text, err := configuration(s.settings)
	if err != nil {
		return err
	}
	path := filepath.Join(s.dir, configFile)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return err
	}
	return s.account.own(path)
}
