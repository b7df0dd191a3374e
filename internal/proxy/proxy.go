// Package proxy stands between PostgreSQL and its clients in tests, and harms
// the connections that go through it: it delays, holds, loses or cuts what they
// send, or refuses new ones.
//
//	p, url, err := proxy.For(pgtest.URL(t))
//	defer p.Close()
//	… clients connect to url …
//	f := p.Blackhole(proxy.App("worker A"))
//	… what worker A sends is lost …
//	f.Lift()
//
// A fault is for the connections that a [Match] picks: those that are open, and
// those that are opened until it is lifted. The proxy reads along in
// PostgreSQL's protocol (version 3), so that a connection can be told by its
// application_name and a single statement can be hit. It speaks no TLS: clients
// must be content without it, as the connection string of For is.
package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// A Proxy listens on a port of 127.0.0.1 and passes on what it gets. Its
// methods may be called concurrently.
type Proxy struct {
	network, address string // of the target
	listener         net.Listener
	wg               sync.WaitGroup // the goroutines of the listener and the connections

	mu      sync.Mutex
	conns   map[*Conn]struct{}
	faults  map[*Fault]struct{}
	changed chan struct{} // closed when the faults change
	closed  bool
}

// dialTimeout is for the connection to the target.
const dialTimeout = 10 * time.Second

// Open listens, and passes connections on to an address of a network as of
// [net.Dial]: "tcp" or "unix". Nothing is sent to the target before a client
// connects. Close the proxy at the end.
func Open(network, address string) (*Proxy, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	p := &Proxy{network: network, address: address, listener: l, conns: map[*Conn]struct{}{}, faults: map[*Fault]struct{}{}, changed: make(chan struct{})}
	p.wg.Go(p.accept)
	return p, nil
}

// For opens a proxy to the server of a connection string, and returns the
// connection string that leads through it.
func For(connString string) (*Proxy, string, error) {
	config, err := pgconn.ParseConfig(connString)
	if err != nil {
		return nil, "", fmt.Errorf("proxy: %w", err)
	}
	p, err := Open(pgconn.NetworkAddress(config.Host, config.Port))
	if err != nil {
		return nil, "", err
	}
	host, port, err := net.SplitHostPort(p.Addr())
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("proxy: %w", err), p.Close())
	}
	if !strings.HasPrefix(connString, "postgres://") && !strings.HasPrefix(connString, "postgresql://") {
		return p, fmt.Sprintf("%s host=%s port=%s sslmode=disable", connString, host, port), nil
	}
	u, err := url.Parse(connString)
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("proxy: %w", err), p.Close())
	}
	q := u.Query()
	q.Del("host")
	q.Del("port")
	q.Set("sslmode", "disable")
	u.Host, u.RawQuery = p.Addr(), q.Encode()
	return p, u.String(), nil
}

// Addr is where the proxy listens: host and port.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Port is the port of Addr.
func (p *Proxy) Port() int {
	_, port, _ := strings.Cut(p.Addr(), ":")
	n, _ := strconv.Atoi(port)
	return n
}

// Conns are the open connections that a Match picks. A connection belongs to
// them from its startup message on.
func (p *Proxy) Conns(who Match) []*Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.matching(who)
}

func (p *Proxy) matching(who Match) (conns []*Conn) {
	for c := range p.conns {
		if c.named && who(c) {
			conns = append(conns, c)
		}
	}
	return conns
}

// Cut closes the connections that a Match picks, on both sides, and returns how
// many they were. What had not been passed on is lost.
func (p *Proxy) Cut(who Match) int {
	conns := p.Conns(who)
	for _, c := range conns {
		c.cut()
	}
	return len(conns)
}

// Close cuts all connections and returns when nothing of the proxy runs any
// more. Calling it again does nothing.
func (p *Proxy) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	err := p.listener.Close()
	conns := make([]*Conn, 0, len(p.conns))
	for c := range p.conns {
		conns = append(conns, c)
	}
	p.mu.Unlock()
	for _, c := range conns {
		c.cut()
	}
	p.wg.Wait()
	return err
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(10 * time.Millisecond) // too many files are open, for instance
			continue
		}
		c := &Conn{proxy: p, client: client, gone: make(chan struct{})}
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			_ = client.Close()
			return
		}
		p.conns[c] = struct{}{}
		p.wg.Go(c.run)
		p.mu.Unlock()
	}
}
