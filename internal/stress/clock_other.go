//go:build unix && !linux

package stress

import "time"

// now is the wall clock, in nanoseconds: a run during which somebody sets it
// proves nothing.
func now() int64 { return time.Now().UnixNano() }
