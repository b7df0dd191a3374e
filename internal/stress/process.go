//go:build unix

package stress

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bearmq/bearmq/internal/history"
)

// A place is where one process after another runs.
type place struct {
	orchestrator bool

	mu      sync.Mutex // held by a fault of the process
	process *process
}

// A process is a child.
type process struct {
	name   string
	cmd    *exec.Cmd
	stdin  io.Closer // the child stops when it is closed
	doomed atomic.Bool
	done   chan struct{}
	err    error // once done
}

// fill starts a process in a place. The place is locked, or nobody else knows
// it yet.
func (r *coordinator) fill(at *place) error {
	number := r.spawned.Add(1)
	name := fmt.Sprintf("worker%d", number)
	if at.orchestrator {
		name = fmt.Sprintf("orchestrator%d", number)
	}
	text, err := json.Marshal(role{Config: r.Config, Database: r.through(), Process: name, Number: number, Orchestrator: at.orchestrator, Calm: r.calm})
	if err != nil {
		return err
	}
	binary := r.Binary
	if binary == "" {
		if binary, err = os.Executable(); err != nil {
			return err
		}
	}
	output, err := os.Create(filepath.Join(r.Dir, name+".out"))
	if err != nil {
		return err
	}
	defer output.Close()
	p := &process{name: name, cmd: exec.Command(binary), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), roleVariable+"="+string(text))
	p.cmd.Stdout, p.cmd.Stderr = output, output
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return err
	}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	r.journal.Add(history.Record{Step: history.Spawn, Process: name, N: int64(p.cmd.Process.Pid)})
	at.process = p
	r.watches.Go(func() { r.watch(at, p) })
	return nil
}

// watch replaces a process that ends by itself: a handler has ended it.
func (r *coordinator) watch(at *place, p *process) {
	p.err = p.cmd.Wait()
	doomed := p.doomed.Load()
	if !doomed {
		r.journal.Add(history.Record{Step: history.Kill, Process: p.name, Note: history.Exit})
		r.harmed("handler exits its process", p.name, 1)
	}
	close(p.done)
	if doomed {
		return
	}
	if p.cmd.ProcessState.ExitCode() != exitCode {
		r.violate(history.Liveness, "%s ended by itself: %v; its output is in %s.out", p.name, p.err, p.name)
	}
	at.mu.Lock()
	defer at.mu.Unlock()
	if at.process == p && !r.ending.Load() {
		if err := r.fill(at); err != nil {
			r.fail(err)
		}
	}
}

// kill ends a process at once, and returns when it is dead.
func (r *coordinator) kill(p *process) {
	p.doomed.Store(true)
	_ = p.cmd.Process.Kill() // it may have ended already
	<-p.done
	r.journal.Add(history.Record{Step: history.Kill, Process: p.name})
}

// killAll ends everything.
func (r *coordinator) killAll() {
	r.ending.Store(true)
	for _, at := range r.places() {
		at.mu.Lock()
		if p := at.process; p != nil {
			p.doomed.Store(true)
			if !p.exited() {
				_ = p.cmd.Process.Kill()
				<-p.done
				r.journal.Add(history.Record{Step: history.Kill, Process: p.name, Note: history.Exit})
			}
		}
		at.mu.Unlock()
	}
	r.watches.Wait()
}

// end stops a process in good order.
func (p *process) end(patience time.Duration) error {
	p.doomed.Store(true)
	if err := p.stdin.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return p.wait(patience)
}

func (p *process) wait(patience time.Duration) error {
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-p.done:
		return p.err
	case <-t.C:
		return fmt.Errorf("it was still running %v after it was told to stop", patience)
	}
}

func (p *process) exited() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}
