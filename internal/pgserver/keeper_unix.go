//go:build unix

package pgserver

import (
	"bufio"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

//go:embed keeper.sh
var keeperScript string

// job is one program for a keeper to run.
type job struct {
	account account
	args    []string
	env     []string
	log     string // file that takes its output; empty keeps the end of it in memory
	remove  string // directory to remove when this process is gone; empty keeps all
}

// keeper is the sh process that runs one job and stops it when this process is
// gone. It stays after its job, guarding the directory, until leave.
type keeper struct {
	pid    int           // of the job
	gone   chan struct{} // closed when the job and all its children are gone
	output *tail         // to be read after gone
	cmd    *exec.Cmd
	words  *os.File // its standard input
	says   *bufio.Reader
	stdout *os.File
}

// keep starts a job below a new keeper.
func keep(j job) (_ *keeper, err error) {
	var pipes []*os.File
	defer func() {
		if err != nil {
			for _, f := range pipes {
				_ = f.Close()
			}
		}
	}()
	pipe := func() (r, w *os.File) {
		if err != nil {
			return nil, nil
		}
		if r, w, err = os.Pipe(); err == nil {
			pipes = append(pipes, r, w)
		}
		return r, w
	}
	stdin, words := pipe()
	stdout, says := pipe()
	alive, held := pipe()
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", j.args[0], err)
	}

	cmd := exec.Command("/bin/sh", append([]string{"-c", keeperScript, "bearmq-keeper", j.remove, j.log}, j.args...)...)
	cmd.Dir, cmd.Env = "/", j.env
	cmd.Stdin, cmd.Stdout, cmd.ExtraFiles = stdin, says, []*os.File{held}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // out of reach of the terminal's Ctrl-C
	j.account.apply(cmd)
	if err = cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s%s: %w", j.args[0], j.account.suffix(), err)
	}
	for _, f := range []*os.File{stdin, says, held} {
		_ = f.Close() // the keeper has its own
	}
	k := &keeper{
		gone: make(chan struct{}), output: &tail{max: 8 << 10},
		cmd: cmd, words: words, says: bufio.NewReader(stdout), stdout: stdout,
	}
	go func() { // ends with the job, which leave and the keeper's script wait for
		defer close(k.gone)
		_, _ = io.Copy(k.output, alive)
		_ = alive.Close()
	}()
	line, err := k.says.ReadString('\n')
	if err == nil {
		k.pid, err = strconv.Atoi(strings.TrimSpace(line))
	}
	if err != nil {
		_ = words.Close()
		_ = cmd.Wait()
		return nil, fmt.Errorf("starting %s: /bin/sh ended at once: %w", j.args[0], err)
	}
	return k, nil
}

// running says whether the job or one of its children still exists.
func (k *keeper) running() bool {
	select {
	case <-k.gone:
		return false
	default:
		return true
	}
}

// status waits for the job's end, reaps it and returns its exit status. Until it
// is reaped its process number looks alive, and a PostgreSQL that finds it in
// postmaster.pid refuses to start.
func (k *keeper) status() (int, error) {
	<-k.gone
	if _, err := k.words.WriteString("status\n"); err != nil {
		return 0, err
	}
	line, err := k.says.ReadString('\n')
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(line))
}

// leave ends the keeper without removing anything. The job must be gone.
func (k *keeper) leave() error {
	_, err := k.words.WriteString("leave\n")
	if errors.Is(err, syscall.EPIPE) {
		err = nil // somebody killed it: it left already
	}
	return errors.Join(err, k.end())
}

// abandon does at once what happens when this process is gone.
func (k *keeper) abandon() error { return k.end() }

func (k *keeper) end() error {
	_ = k.words.Close()
	err := k.cmd.Wait()
	_ = k.stdout.Close()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil // its exit status is that of rm or kill, which nobody needs
	}
	return err
}

// interrupt asks PostgreSQL for its fast stop: transactions are rolled back, and
// the data are written.
func (k *keeper) interrupt() error { return k.signal(syscall.SIGINT) }

// quit asks PostgreSQL for its immediate stop: no checkpoint, recovery at the next start.
func (k *keeper) quit() error { return k.signal(syscall.SIGQUIT) }

func (k *keeper) signal(sig syscall.Signal) error {
	if !k.running() {
		return nil
	}
	err := syscall.Kill(k.pid, sig)
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	return err
}

// kill ends the job and its children with SIGKILL. The job is halted before its
// children are listed, so that it cannot start another one in between.
func (k *keeper) kill() error {
	if !k.running() {
		return nil
	}
	if err := k.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	children, err := childrenOf(k.pid)
	if err != nil {
		return errors.Join(err, k.signal(syscall.SIGCONT))
	}
	err = k.signal(syscall.SIGKILL)
	for _, pid := range children {
		if e := syscall.Kill(pid, syscall.SIGKILL); e != nil && !errors.Is(e, syscall.ESRCH) {
			err = errors.Join(err, e)
		}
	}
	return err
}
