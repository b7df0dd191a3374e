package proxy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// What is needed of PostgreSQL's protocol, version 3. A message has a type (one
// byte), its length without the type (four bytes), and a body. Before them comes
// the startup message, which has no type.

const (
	versionThree  = 3 << 16
	cancelRequest = 1234<<16 | 5678
	sslRequest    = 1234<<16 | 5679
	gssRequest    = 1234<<16 | 5680
)

// readStartup reads the first message of a client: what to pass on, and its
// parameters. It answers requests for encryption with a no.
func readStartup(client io.ReadWriter) (message []byte, parameters map[string]string, err error) {
	for {
		head := make([]byte, 8)
		if _, err := io.ReadFull(client, head); err != nil {
			return nil, nil, err
		}
		size, version := binary.BigEndian.Uint32(head), binary.BigEndian.Uint32(head[4:])
		if size < 8 || size > 10_000 { // PostgreSQL's own limit
			return nil, nil, fmt.Errorf("a startup message of %d bytes", size)
		}
		message = append(head, make([]byte, size-8)...)
		if _, err := io.ReadFull(client, message[8:]); err != nil {
			return nil, nil, err
		}
		switch {
		case version == sslRequest || version == gssRequest:
			if _, err := client.Write([]byte{'N'}); err != nil {
				return nil, nil, err
			}
		case version == cancelRequest:
			return message, map[string]string{}, nil
		case version>>16 == versionThree>>16:
			parameters = map[string]string{}
			fields := strings.Split(string(message[8:]), "\x00")
			for i := 0; i+1 < len(fields) && fields[i] != ""; i += 2 {
				parameters[fields[i]] = fields[i+1]
			}
			return message, parameters, nil
		default:
			return nil, nil, errors.New("a startup message of another protocol")
		}
	}
}

// messages takes a stream apart, whatever the pieces it comes in.
type messages struct {
	keep int    // how much of the beginning of a body is kept
	head []byte // of the message that is being read, up to five bytes
	body []byte
	left int // bytes of the body that are still to come
}

// read reads up to the end of one message and returns how many bytes that were.
// ended is false where the message goes on in the next piece.
func (m *messages) read(b []byte) (n int, ended bool) {
	if len(m.head) < 5 {
		n = min(5-len(m.head), len(b))
		m.head = append(m.head, b[:n]...)
		if len(m.head) < 5 {
			return n, false
		}
		m.left = int(binary.BigEndian.Uint32(m.head[1:])) - 4
	}
	some := min(m.left, len(b)-n)
	if space := m.keep - len(m.body); space > 0 {
		m.body = append(m.body, b[n:n+min(some, space)]...)
	}
	m.left -= some
	return n + some, m.left <= 0
}

func (m *messages) next() { m.head, m.body = m.head[:0], m.body[:0] }

// longText is more than any statement's text. Payloads may be longer, and do
// not matter.
const longText = 64 << 10

// clientMessages reads along what a client sends. A call ends with Query or
// Sync: the server answers it with one ReadyForQuery.
type clientMessages struct {
	messages
	started  int               // calls that were sent
	prepared map[string]string // texts of the prepared statements
	call     []string          // texts of the statements that the call executes
}

// read calls call with the texts of what is executed, at the end of each call.
func (m *clientMessages) read(b []byte, call func(statements []string)) {
	for len(b) > 0 {
		n, ended := m.messages.read(b)
		b = b[n:]
		if !ended {
			return
		}
		switch m.head[0] {
		case 'P': // Parse: name, text
			name, rest := text(m.body)
			m.prepared[name], _ = text(rest)
		case 'B': // Bind: portal, name
			_, rest := text(m.body)
			name, _ := text(rest)
			m.call = append(m.call, m.prepared[name])
		case 'Q':
			sql, _ := text(m.body)
			m.call = append(m.call, sql)
			m.end(call)
		case 'S':
			m.end(call)
		}
		m.next()
	}
}

func (m *clientMessages) end(call func([]string)) {
	m.started++
	call(m.call)
	m.call = nil
}

// serverMessages counts the calls that a server has answered.
type serverMessages struct {
	messages
	ended int
}

// read reads up to the end of an answer, or everything where there is none, and
// returns how many bytes that were.
func (m *serverMessages) read(b []byte) (n int) {
	for n < len(b) {
		some, ended := m.messages.read(b[n:])
		n += some
		if !ended {
			break
		}
		ready := m.head[0] == 'Z'
		m.next()
		if ready {
			m.ended++
			break
		}
	}
	return n
}

// text is a string that ends with a zero byte, and what comes after it.
func text(b []byte) (string, []byte) {
	s, rest, _ := bytes.Cut(b, []byte{0})
	return string(s), rest
}

func isListen(sql string) bool {
	sql = strings.TrimSpace(sql)
	return len(sql) >= 6 && strings.EqualFold(sql[:6], "listen")
}
