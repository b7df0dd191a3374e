package proxy

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A Conn is a client's connection through the proxy, and the one to the server
// that belongs to it.
type Conn struct {
	proxy  *Proxy
	client net.Conn
	server net.Conn // nil until the startup message was read

	// The proxy's lock guards these.
	named bool // parameters are known
	holed bool // something of it was lost: nothing may arrive after that

	parameters map[string]string
	listens    atomic.Bool

	once sync.Once
	gone chan struct{} // closed when it is cut

	// reply is the answer that is to be cut off, once there is one.
	reply atomic.Pointer[reply]
}

// A reply is that of the call with a number, counted from the startup message
// on. Its fault is over when the server has sent all of it.
type reply struct {
	call  int
	fault *Fault
}

// App is the application_name in the startup message, "" where it has none.
func (c *Conn) App() string { return c.parameters["application_name"] }

// Parameter is a parameter of the startup message, such as user or database.
func (c *Conn) Parameter(name string) string { return c.parameters[name] }

// Gone is closed when the connection is closed.
func (c *Conn) Gone() <-chan struct{} { return c.gone }

// cut closes both sides.
func (c *Conn) cut() {
	c.once.Do(func() {
		p := c.proxy
		p.mu.Lock()
		delete(p.conns, c)
		server := c.server
		close(c.gone)
		p.mu.Unlock()
		_ = c.client.Close()
		if server != nil {
			_ = server.Close()
		}
	})
}

// run passes on what comes until the connection ends.
func (c *Conn) run() {
	defer c.cut()
	first, parameters, err := readStartup(c.client)
	if err != nil {
		return
	}
	p := c.proxy
	p.mu.Lock()
	c.parameters, c.named = parameters, true
	p.mu.Unlock()
	if p.refused(c) {
		return
	}
	if !c.pass() {
		<-c.gone
		return
	}
	server, err := net.DialTimeout(p.network, p.address, dialTimeout)
	if err != nil {
		return
	}
	p.mu.Lock()
	c.server = server
	p.mu.Unlock()
	select {
	case <-c.gone: // cut meanwhile, without the server's side
		_ = server.Close()
		return
	default:
	}
	if _, err := server.Write(first); err != nil {
		return
	}
	p.wg.Go(c.answers)
	c.calls()
}

// pass waits as long as what was sent is delayed or held, and tells whether it
// is to be passed on. It returns false where it is lost.
func (c *Conn) pass() bool {
	delayed := false
	for {
		s := c.proxy.state(c)
		switch {
		case s.lost:
			return false
		case s.held:
			select {
			case <-s.changed:
			case <-c.gone:
				return false
			}
		case s.wait > 0 && !delayed:
			delayed = true
			t := time.NewTimer(s.wait)
			select {
			case <-t.C:
			case <-c.gone:
				t.Stop()
				return false
			}
		default:
			return true
		}
	}
}

// over is for the end of one side: the other learns of it when a message would
// have arrived, and never if that would have been lost.
func (c *Conn) over() {
	if !c.pass() {
		<-c.gone
	}
}

// calls passes on what the client sends.
func (c *Conn) calls() {
	in := clientMessages{messages: messages{keep: longText}, started: 1, prepared: map[string]string{}} // the startup is answered like a call
	buffer := make([]byte, 32<<10)
	for {
		n, err := c.client.Read(buffer)
		if n > 0 && c.pass() {
			in.read(buffer[:n], func(statements []string) {
				for _, sql := range statements {
					if isListen(sql) {
						c.listens.Store(true)
					}
				}
				if c.reply.Load() != nil {
					return
				}
				if f := c.proxy.caught(c, statements); f != nil {
					c.reply.Store(&reply{in.started, f})
				}
			})
			if _, err := c.server.Write(buffer[:n]); err != nil {
				c.over()
				return
			}
		}
		if err != nil {
			c.over()
			return
		}
	}
}

// answers passes on what the server sends.
func (c *Conn) answers() {
	defer func() {
		c.cut()
		if r := c.reply.Load(); r != nil {
			close(r.fault.done)
		}
	}()
	var in serverMessages
	buffer := make([]byte, 32<<10)
	for {
		n, err := c.server.Read(buffer)
		if n > 0 && c.pass() {
			rest := buffer[:n]
			for len(rest) > 0 {
				// Up to the end of an answer, or all.
				before := in.ended
				end := in.read(rest)
				if r := c.reply.Load(); r != nil && before == r.call-1 {
					if in.ended == r.call {
						return
					}
				} else if _, err := c.client.Write(rest[:end]); err != nil {
					c.over()
					return
				}
				rest = rest[end:]
			}
		}
		if err != nil {
			c.over()
			return
		}
	}
}
