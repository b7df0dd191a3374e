package history

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzJournal: what is written to a journal is read from it.
func FuzzJournal(f *testing.F) {
	f.Add("worker 1", "start", "a", "g", "ok", int64(1), int64(-1), 3)
	f.Add("", "", "", "", "", int64(0), int64(0), 0)
	f.Add("p 1", "x", "c", "\x00", "\xff\r\n\t", int64(-1<<63), int64(1<<62), -1)
	f.Fuzz(func(t *testing.T, process, step, channel, group, note string, seq, n int64, attempt int) {
		clean := strings.NewReplacer("\t", "", "\n", "", "\r", "") // no name has one
		in := Record{Process: clean.Replace(process), Step: Step(clean.Replace(step)), Seq: seq, Job: -seq, N: n, Token: n / 2, Attempt: attempt,
			Channel: clean.Replace(channel), Group: clean.Replace(group), Note: strings.TrimSuffix(Text(errors.New(note)), "\r")}
		if in.Process == "" {
			in.Process = "p"
		}
		dir := t.TempDir()
		j, err := Open(dir, "p")
		require.NoError(t, err)
		j.Add(in)
		j.Add(in)
		_, err = j.file.WriteString("17\tp\tcut short by a kill")
		require.NoError(t, err)
		require.NoError(t, j.Close())
		out, err := Read(dir)
		require.NoError(t, err)
		require.Len(t, out, 2)
		require.LessOrEqual(t, out[0].Time, out[1].Time)
		for _, r := range out {
			require.Positive(t, r.Time)
			r.Time = 0
			require.Equal(t, in, r)
		}
	})
}

// FuzzRead: of a journal that is not one nothing is left out in silence.
func FuzzRead(f *testing.F) {
	const line = "1\tp\tstart\t2\t3\t4\t5\t6\tc\tg\tn"
	for _, text := range []string{line + "\n", "1\tp\n", "x" + line[1:] + "\n", "\n\n", "no end", line + strings.Repeat("n", 1<<17) + "\n" + line + "\n"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "p"+suffix), text, 0o600))
		all, err := Read(dir)
		if err != nil {
			require.ErrorContains(t, err, "p"+suffix)
			return
		}
		require.Len(t, all, strings.Count(string(text), "\n"))
		for i := 1; i < len(all); i++ {
			require.LessOrEqual(t, all[i-1].Time, all[i].Time)
		}
	})
}
