package proxy

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func message(kind byte, body string) string {
	head := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(body)+4))
	return string(head) + body
}

// Whatever the pieces, the calls are the same.
func TestMessagesInAnyPieces(t *testing.T) {
	t.Parallel()
	sent := message('P', "one\x00SELECT 1\x00\x00\x00") + message('S', "") + // prepared only
		message('B', "\x00one\x00\x00\x00"+strings.Repeat("x", longText)) + message('E', "\x00\x00\x00\x00\x00") + message('S', "") +
		message('Q', "commit\x00") + message('d', "data") +
		message('P', "\x00SELECT 2\x00\x00\x00") + message('B', "\x00\x00") + message('B', "\x00one\x00") + message('S', "")
	want := [][]string{nil, {"SELECT 1"}, {"commit"}, {"SELECT 2", "SELECT 1"}}
	answers := message('R', "\x00\x00\x00\x00") + message('Z', "I") + message('D', strings.Repeat("y", 300)) + message('C', "x\x00") + message('Z', "I") + message('1', "")
	for _, size := range []int{1, 2, 3, 7, 64, 1 << 20} {
		in := clientMessages{messages: messages{keep: longText}, prepared: map[string]string{}}
		var got [][]string
		for piece := range slices.Chunk([]byte(sent), size) {
			in.read(piece, func(statements []string) { got = append(got, statements) })
		}
		require.Equal(t, want, got, "pieces of %d", size)
		require.Equal(t, len(want), in.started)

		var out serverMessages
		var ends []int
		at := 0
		for piece := range slices.Chunk([]byte(answers), size) {
			for len(piece) > 0 {
				before := out.ended
				n := out.read(piece)
				if at += n; out.ended > before {
					ends = append(ends, at)
				}
				piece = piece[n:]
			}
		}
		require.Equal(t, []int{strings.Index(answers, "Z\x00") + 6, strings.LastIndex(answers, "Z\x00") + 6}, ends, "pieces of %d", size)
	}
}
