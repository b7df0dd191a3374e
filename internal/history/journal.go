package history

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// A Journal is one process's file. Each record is one write to a file opened
// for appending: what was written survives the process.
type Journal struct {
	process string
	mu      sync.Mutex
	file    *os.File
	line    []byte
}

const suffix = ".history"

// Open makes or continues the journal of a process in a directory.
func Open(dir, process string) (*Journal, error) {
	f, err := os.OpenFile(filepath.Join(dir, process+suffix), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	return &Journal{process: process, file: f}, nil
}

// Add stamps a record and appends it. A history with holes would prove
// nothing, so an error panics.
func (j *Journal) Add(r Record) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if r.Process == "" {
		r.Process = j.process
	}
	r.Time = Now()
	j.line = r.append(j.line[:0])
	if _, err := j.file.Write(j.line); err != nil {
		panic(fmt.Sprintf("history: the journal cannot be written: %v", err))
	}
}

// Close closes the file.
func (j *Journal) Close() error { return j.file.Close() }

// Read reads the journals of all processes, in the order of time. A last line
// without an end was cut short by a kill, and never happened.
func Read(dir string) ([]Record, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
	if err != nil {
		return nil, err
	}
	var all []Record
	for _, name := range files {
		records, err := read(name)
		if err != nil {
			return nil, err
		}
		all = append(all, records...)
	}
	sort(all)
	return all, nil
}

// Running counts the runs that a process has started and not ended, as far as
// its journal goes now. It has none before it has a journal.
func Running(dir, process string) (int, error) {
	records, err := read(filepath.Join(dir, process+suffix))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	runs := 0
	for _, r := range records {
		switch r.Step {
		case Start:
			runs++
		case End:
			runs--
		}
	}
	return runs, err
}

func read(name string) ([]Record, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	text = text[:bytes.LastIndexByte(text, '\n')+1]
	var all []Record
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		r, err := parse(lines.Text())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, r)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return all, nil
}

// sort is stable: within a file the order is that of the lines.
func sort(all []Record) {
	slices.SortStableFunc(all, func(a, b Record) int { return cmp.Compare(a.Time, b.Time) })
}
