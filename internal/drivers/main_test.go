//go:build drivers

package drivers

import (
	"os"
	"testing"

	"github.com/bearmq/bearmq/internal/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }
