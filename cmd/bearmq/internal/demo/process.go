package demo

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// A process is a worker process as its parent sees it.
type process struct {
	name  string
	cmd   *exec.Cmd
	input io.WriteCloser
	ready chan struct{} // closed once its workers run
	ended chan struct{} // closed once it has gone
	last  *lastLines    // of what it wrote to its standard error

	mu       sync.Mutex
	expected bool // to end: it was killed or told to stop
}

// A message is what a worker process says.
type message struct {
	from       *process
	what, text string
}

// start runs this program once more, as a worker. Its messages go to tell, its
// end does as saidEnded unless it was expected.
func start(name string, env []string, verbose io.Writer, tell func(message)) (*process, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{name: name, cmd: exec.Command(program, WorkerCommand), ready: make(chan struct{}), ended: make(chan struct{}), last: &lastLines{}}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stderr = p.last
	if verbose != nil {
		p.cmd.Stderr = io.MultiWriter(p.last, verbose)
	}
	if p.input, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	output, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	go p.attend(output, tell)
	return p, nil
}

// saidEnded is what is told of a process that ended by itself.
const saidEnded = "ended"

// attend passes on what the process says, and reaps it.
func (p *process) attend(output io.Reader, tell func(message)) {
	defer close(p.ended)
	daemons := 0
	for lines := bufio.NewScanner(output); lines.Scan(); {
		what, text, _ := strings.Cut(lines.Text(), " ")
		if what == saidReady {
			if daemons++; daemons == 2 {
				close(p.ready)
			}
			continue
		}
		tell(message{p, what, text})
	}
	err := p.cmd.Wait()
	p.mu.Lock()
	expected := p.expected
	p.mu.Unlock()
	if !expected {
		tell(message{p, saidEnded, fmt.Sprintf("%v\n%s", err, p.last)})
	}
}

func (p *process) say(line string) error {
	_, err := fmt.Fprintln(p.input, line)
	return err
}

func (p *process) expectEnd() {
	p.mu.Lock()
	p.expected = true
	p.mu.Unlock()
}

// kill ends it as a crash of the machine would.
func (p *process) kill() error {
	p.expectEnd()
	return p.cmd.Process.Kill()
}

// stop tells it to stop, and makes sure that it has.
func (p *process) stop() {
	p.expectEnd()
	_ = p.input.Close() // of a process that has gone already
	force := time.AfterFunc(stopPatience, func() { _ = p.cmd.Process.Kill() })
	defer force.Stop()
	<-p.ended
}

// awaitReady waits until its workers run.
func (p *process) awaitReady(ctx context.Context) error {
	select {
	case <-p.ready:
		return nil
	case <-p.ended:
		return fmt.Errorf("%s ended at once: %s", p.name, p.last)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// lastLines keeps the end of what is written to it.
type lastLines struct {
	mu   sync.Mutex
	text []byte
}

const lastBytes = 2000

func (l *lastLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, p...)
	if n := len(l.text); n > lastBytes {
		l.text = append(l.text[:0], l.text[n-lastBytes:]...)
	}
	return len(p), nil
}

func (l *lastLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.TrimSpace(string(l.text))
}
