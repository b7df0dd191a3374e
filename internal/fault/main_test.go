//go:build fault && unix

package fault

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/bearmq/bearmq/internal/pgtest"
)

func TestMain(m *testing.M) {
	if is, code := child(); is {
		os.Exit(code)
	}
	flag.Parse()
	// The rows spend their time waiting for sessions to expire. More than this
	// at once would delay each other.
	if !isSet("test.parallel") {
		_ = flag.Set("test.parallel", "8")
	}
	os.Exit(pgtest.Run(m))
}

func isSet(name string) (set bool) {
	flag.Visit(func(f *flag.Flag) { set = set || f.Name == name })
	return set
}

// long says that rows run at full length.
var long = os.Getenv("BEARMQ_FAULT_LONG") == "1"

// A row is one of the fault matrix.
type row struct {
	number int
	name   string // without digits, so that a number selects one row
	alone  bool   // it measures, and so runs before the others, by itself
	run    func(t *testing.T)
}

// TestFault runs the matrix: those that measure one after another, then the
// others side by side.
func TestFault(t *testing.T) {
	all := slices.Concat(processRows, serverRows, connectionRows, planRows, groupRows, clockRows, scheduleRows, migrationRows, inputRows)
	slices.SortFunc(all, func(a, b row) int { return a.number - b.number })
	for _, r := range all {
		t.Run(fmt.Sprintf("%02d %s", r.number, r.name), func(t *testing.T) {
			if !r.alone {
				t.Parallel()
			}
			r.run(t)
		})
	}
}
