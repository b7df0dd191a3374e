//go:build unix

package stress

import (
	"os"
	"testing"

	"github.com/bearmq/bearmq/internal/pgtest"
)

func TestMain(m *testing.M) {
	if is, code := Child(); is {
		os.Exit(code)
	}
	os.Exit(pgtest.Run(m))
}
