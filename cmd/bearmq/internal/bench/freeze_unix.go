//go:build unix

package bench

import (
	"os"
	"syscall"
)

// freeze stops a process where it is. Only SIGCONT and SIGKILL reach it then.
func freeze(pid int) error { return send(pid, syscall.SIGSTOP) }

// thaw lets it go on.
func thaw(pid int) error { return send(pid, syscall.SIGCONT) }

func send(pid int, s os.Signal) error {
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	return p.Signal(s)
}
