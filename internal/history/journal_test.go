package history

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReadBringsJournalsIntoOneOrder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, err := Open(dir, "a")
	require.NoError(t, err)
	b, err := Open(dir, "b")
	require.NoError(t, err)
	written := []Record{
		{Process: "a", Step: Intent, Seq: 1, N: 2, Channel: "one", Group: "g", Note: Text(errors.New("two\tfields\nand lines"))},
		{Process: "b", Step: Start, Seq: 1, Job: 3, N: 4, Token: 5, Attempt: 6, Channel: "one", Group: "g", Note: Deaf},
		{Process: "of another", Step: Kill, N: 7},
	}
	before := Now()
	a.Add(written[0])
	b.Add(written[1])
	a.Add(written[2])
	require.NoError(t, a.Close())
	require.NoError(t, b.Close())
	// A process that was killed while it wrote.
	file := filepath.Join(dir, "b"+suffix)
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, append(text, "12345\tb\tsta"...), 0o600))

	read, err := Read(dir)
	require.NoError(t, err)
	for i := range read {
		require.GreaterOrEqual(t, read[i].Time, before)
		before, read[i].Time = read[i].Time, 0
	}
	written[0].Note = "two fields and lines"
	require.Equal(t, written, read)
}

func TestReadRefusesWhatIsNoRecord(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"1\ta\tstart\n", "1\ta\tstart\tx\t0\t0\t0\t0\t\t\t\n"} {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "a"+suffix), []byte(text), 0o600))
		_, err := Read(dir)
		require.ErrorContains(t, err, "a"+suffix)
	}
}

func TestRunningCountsWhatHasNotEnded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	n, err := Running(dir, "a")
	require.NoError(t, err)
	require.Zero(t, n)
	j, err := Open(dir, "a")
	require.NoError(t, err)
	for _, step := range []Step{Start, Start, Succeeded, End, Start} {
		j.Add(Record{Step: step})
	}
	require.NoError(t, j.Close())
	n, err = Running(dir, "a")
	require.NoError(t, err)
	require.Equal(t, 2, n)
}
