package pgtest

import (
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzSchemaName: a test's schema needs no quotes, whatever the test is called, and no other test has it.
func FuzzSchemaName(f *testing.F) {
	for _, name := range []string{"", "TestX", "TestX/with a space/ü", "Test", "TestTest\x00\xff'\"", "FuzzA/b#00"} {
		f.Add(name)
	}
	legal := regexp.MustCompile(`^t_[a-z0-9_]{1,37}$`)
	f.Fuzz(func(t *testing.T, test string) {
		a, b := schemaName(test), schemaName(test)
		require.Regexp(t, legal, a)
		require.LessOrEqual(t, len(a), 40)
		require.NotEqual(t, a, b)
	})
}
