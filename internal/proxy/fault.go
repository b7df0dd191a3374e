package proxy

import (
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// A Match picks connections. It must not call the Proxy.
type Match func(*Conn) bool

// All picks every connection.
func All(*Conn) bool { return true }

// App picks the connections with an application_name.
func App(name string) Match { return func(c *Conn) bool { return c.App() == name } }

// Only picks these connections, and none that is opened later.
func Only(conns ...*Conn) Match { return func(c *Conn) bool { return slices.Contains(conns, c) } }

// Listening picks connections that have sent LISTEN.
func Listening(c *Conn) bool { return c.listens.Load() }

// Both picks what both pick.
func Both(a, b Match) Match { return func(c *Conn) bool { return a(c) && b(c) } }

// A Statement picks statements by their text.
type Statement func(sql string) bool

// Commit picks the statement COMMIT.
func Commit(sql string) bool {
	return strings.EqualFold(strings.TrimRight(strings.TrimSpace(sql), ";"), "commit")
}

// Containing picks the statements that contain a text, for instance the name of
// a function.
func Containing(text string) Statement {
	return func(sql string) bool { return strings.Contains(sql, text) }
}

type kind int

const (
	delay kind = iota
	stall
	blackhole
	refuse
	cutReply
)

// A Fault is something that happens to connections until it is lifted. Several
// may hit one connection: delays add up.
type Fault struct {
	proxy           *Proxy
	kind            kind
	who             Match
	latency, jitter time.Duration
	statement       Statement
	lost            map[*Conn]bool // blackhole: those of which something was lost
	done            chan struct{}  // cutReply
}

// Delay makes everything arrive later, in both directions: after latency and a
// random time up to jitter.
func (p *Proxy) Delay(who Match, latency, jitter time.Duration) *Fault {
	return p.impose(&Fault{kind: delay, who: who, latency: latency, jitter: jitter})
}

// Stall holds everything that is sent, in both directions, also that a side has
// closed its end. It arrives when the fault is lifted.
func (p *Proxy) Stall(who Match) *Fault { return p.impose(&Fault{kind: stall, who: who}) }

// Blackhole loses everything that is sent, in both directions, while the
// connections stay open: neither side learns even that the other has closed its
// end. Lifting it cuts the connections of which something was lost.
func (p *Proxy) Blackhole(who Match) *Fault { return p.impose(&Fault{kind: blackhole, who: who}) }

// Refuse closes new connections as soon as their startup message has said whose
// they are. Those that are open go on.
func (p *Proxy) Refuse(who Match) *Fault { return p.impose(&Fault{kind: refuse, who: who}) }

// CutReply lets the next call that executes a statement reach the server, waits
// until the server has answered all of it, and cuts the connection before the
// client gets any of that: what the call did is done, and the client cannot
// know. It happens once; Done says when.
func (p *Proxy) CutReply(who Match, statement Statement) *Fault {
	return p.impose(&Fault{kind: cutReply, who: who, statement: statement, done: make(chan struct{})})
}

func (p *Proxy) impose(f *Fault) *Fault {
	f.proxy, f.lost = p, map[*Conn]bool{}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults[f] = struct{}{}
	p.change()
	return f
}

// change wakes those that wait for the end of a fault. The lock is held.
func (p *Proxy) change() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// Lift ends the fault. Calling it again does nothing.
func (f *Fault) Lift() {
	p := f.proxy
	p.mu.Lock()
	delete(p.faults, f)
	p.change()
	lost := f.lost
	f.lost = nil
	p.mu.Unlock()
	for c := range lost {
		c.cut()
	}
}

// Done is closed when a CutReply has cut a connection. It is nil for other
// faults.
func (f *Fault) Done() <-chan struct{} { return f.done }

// state is what becomes of something that a connection has sent.
type state struct {
	lost    bool
	held    bool
	wait    time.Duration
	changed <-chan struct{} // closed when this may not be so any more
}

func (p *Proxy) state(c *Conn) state {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := state{changed: p.changed, lost: c.holed}
	for f := range p.faults {
		if !f.who(c) {
			continue
		}
		switch f.kind {
		case delay:
			s.wait += f.latency
			if f.jitter > 0 {
				s.wait += rand.N(f.jitter)
			}
		case stall:
			s.held = true
		case blackhole:
			s.lost, c.holed, f.lost[c] = true, true, true
		}
	}
	return s
}

// refused tells whether a new connection is to be closed.
func (p *Proxy) refused(c *Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for f := range p.faults {
		if f.kind == refuse && f.who(c) {
			return true
		}
	}
	return false
}

// caught is the CutReply for a call that executes these statements, nil for
// none. It is lifted by that.
func (p *Proxy) caught(c *Conn, statements []string) *Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	for f := range p.faults {
		if f.kind == cutReply && f.who(c) && slices.ContainsFunc(statements, f.statement) {
			delete(p.faults, f)
			return f
		}
	}
	return nil
}
