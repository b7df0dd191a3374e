//go:build !unix

package pgserver

import (
	"errors"
	"os/exec"
)

// A private server needs sessions, signals and pipes of Unix. Elsewhere the
// package knows DATABASE_URL only.
var errNoPrivate = errors.New("a private PostgreSQL can be started on Unix systems only: set DATABASE_URL to a running server")

type account struct{}

func serverAccount() (account, error)      { return account{}, errNoPrivate }
func ownerAccount(string) (account, error) { return account{}, errNoPrivate }
func (account) apply(*exec.Cmd)            {}
func (account) own(string) error           { return nil }
func (account) canUse(string) bool         { return false }
func (account) suffix() string             { return "" }

type job struct {
	account     account
	args, env   []string
	log, remove string
}

type keeper struct {
	pid    int
	gone   chan struct{}
	output *tail
}

func keep(job) (*keeper, error)        { return nil, errNoPrivate }
func (k *keeper) running() bool        { return false }
func (k *keeper) status() (int, error) { return 0, errNoPrivate }
func (k *keeper) leave() error         { return nil }
func (k *keeper) abandon() error       { return nil }
func (k *keeper) interrupt() error     { return nil }
func (k *keeper) quit() error          { return nil }
func (k *keeper) kill() error          { return nil }
