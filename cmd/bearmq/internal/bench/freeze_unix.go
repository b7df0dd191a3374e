//go:build unix

package bench

import (
	"os"
	"syscall"
)

// freeze stops a process where it is. Only SIGCONT and SIGKILL reach it then.
func freeze(pid int) error {
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	return p.Signal(syscall.SIGSTOP)
}
