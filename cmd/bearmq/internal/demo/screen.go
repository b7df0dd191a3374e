package demo

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// A screen shows lines of what happens and, below them, one that is rewritten
// as the work goes on. Where the output is no terminal, that line is written
// anew every few seconds instead.
type screen struct {
	out      io.Writer
	terminal bool
	began    time.Time

	mu     sync.Mutex
	bottom string // the line that is rewritten, "" while there is none
	wrote  time.Time
}

const (
	clearLine  = "\r\x1b[K"
	plainEvery = 3 * time.Second
)

func newScreen(out io.Writer, terminal bool) *screen {
	return &screen{out: out, terminal: terminal, began: time.Now()}
}

// say writes text that belongs to no moment.
func (s *screen) say(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintln(s.out, text)
}

// line says what has happened.
func (s *screen) line(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear, again := "", ""
	if s.terminal && s.bottom != "" {
		clear, again = clearLine, s.bottom
	}
	fmt.Fprintf(s.out, "%s%s  %s\n%s", clear, s.clock(), fmt.Sprintf(format, args...), again)
}

// progress rewrites the line at the bottom.
func (s *screen) progress(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := s.clock() + "  " + fmt.Sprintf(format, args...)
	if s.terminal {
		s.bottom = text
		fmt.Fprint(s.out, clearLine, text)
		return
	}
	if time.Since(s.wrote) >= plainEvery {
		s.wrote = time.Now()
		fmt.Fprintln(s.out, text)
	}
}

// done takes the line at the bottom away.
func (s *screen) done() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.terminal && s.bottom != "" {
		fmt.Fprint(s.out, clearLine)
	}
	s.bottom = ""
}

func (s *screen) clock() string { return fmt.Sprintf("%6.1f s", time.Since(s.began).Seconds()) }
