//go:build unix

package pgserver

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
)

// childrenOf lists the direct children of a process. Each PostgreSQL backend is
// a session of its own, so that no process group holds them together.
func childrenOf(parent int) ([]int, error) {
	if runtime.GOOS == "linux" {
		return childrenFromProc(parent) // small images have no ps
	}
	out, err := exec.Command("ps", "-A", "-o", "pid=", "-o", "ppid=").Output()
	if err != nil {
		return nil, fmt.Errorf("listing the children of process %d with ps: %w", parent, err)
	}
	var children []int
	for line := range bytes.Lines(out) {
		var pid, ppid int
		if _, err := fmt.Sscan(string(line), &pid, &ppid); err == nil && ppid == parent {
			children = append(children, pid)
		}
	}
	return children, nil
}

func childrenFromProc(parent int) ([]int, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	var children []int
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it ended meanwhile
		}
		// "pid (name) state ppid …", where the name may hold spaces and parentheses.
		fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
		if len(fields) < 2 {
			continue
		}
		if ppid, err := strconv.Atoi(string(fields[1])); err != nil || ppid != parent {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			return nil, err
		}
		children = append(children, pid)
	}
	return children, nil
}
