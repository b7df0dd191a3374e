//go:build !unix

package bench

// freeze does nothing: there is no private server here.
func freeze(int) error { return nil }

// thaw does nothing either.
func thaw(int) error { return nil }
