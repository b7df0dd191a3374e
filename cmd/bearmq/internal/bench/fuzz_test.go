package bench

import (
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// FuzzParse gives bench any arguments: what it accepts can be measured.
func FuzzParse(f *testing.F) {
	for _, args := range []string{"", "drain", "stream\n--rate=1000", "latency\n--delayed", "idle\n--duration=1m", "--jobs=9", "--rate=NaN", "--rate=Inf\nstream", "--rate=1e300\nstream",
		"stream\n--rate=1e-300\n--jobs=10", "--groups=each", "--groups=-2", "--retention=-1s", "latency\n--rate=0", "--json\ndrain\n--json", "drain\ndrain", "nope", "--jobs=99999999999999999999",
		"stream\n--duration=-1s\n--rate=5", "--handler=-1h", "--slots=-1", "--payload-bytes=-1", "-h"} {
		f.Add(args)
	}
	f.Fuzz(func(t *testing.T, text string) {
		o, err := parse(strings.Split(text, "\n"), io.Discard)
		if err != nil {
			require.NotEmpty(t, err.Error())
			return
		}
		require.NotNil(t, o.work)
		require.GreaterOrEqual(t, o.jobs, 10)
		require.GreaterOrEqual(t, o.payloadBytes, 0)
		require.GreaterOrEqual(t, o.groups, each)
		require.Positive(t, o.connections)
		require.Positive(t, o.processes)
		require.Positive(t, o.channels)
		require.Positive(t, o.rounds)
		require.GreaterOrEqual(t, o.slots, 0)
		require.False(t, math.IsNaN(o.rate) || math.IsInf(o.rate, 0) || o.rate < 0, "a rate of %v", o.rate)
		require.GreaterOrEqual(t, o.duration, time.Duration(0), "a duration of %v", o.duration)
		require.GreaterOrEqual(t, o.handler, time.Duration(0), "a handler of %v", o.handler)
		require.True(t, o.retention >= 0 || o.retention == keepDefault)
	})
}
