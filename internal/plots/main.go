// Command plots draws what was measured.
//
//	go run ./internal/plots                    docs/performance/*.json into plots and docs/performance.md
//	go run ./internal/plots soak IN.csv OUT.svg samples of a long run into one plot
//
// The same input gives the same output, byte for byte. goals.go has the goals,
// performance.go the plots; scripts/figures makes the input.
package main

import (
	"fmt"
	"io"
	"os"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

const usage = `usage: plots                      draw docs/performance/*.json, and bring docs/performance.md up to date
       plots performance DIR DOC  the same for other places
       plots soak IN.csv OUT.svg  draw the columns of a CSV over its first one, in seconds
`

func run(args []string, stdout, stderr io.Writer) int {
	var err error
	switch {
	case len(args) == 0:
		err = performance("docs/performance", "docs/performance.md", stdout)
	case len(args) == 3 && args[0] == "performance":
		err = performance(args[1], args[2], stdout)
	case len(args) == 3 && args[0] == "soak":
		err = soak(args[1], args[2])
	default:
		fmt.Fprint(stderr, usage)
		return 2
	}
	if err != nil {
		fmt.Fprintln(stderr, "plots:", err)
		return 1
	}
	return 0
}
