// Command generate writes the file of the demo's orders: generate FILE.
package main

import (
	"bytes"
	"fmt"
	"os"

	"github.com/bearmq/bearmq/cmd/bearmq/internal/orders"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: generate FILE")
		os.Exit(2)
	}
	if err := write(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

func write(file string) error {
	var b bytes.Buffer
	if err := orders.Write(&b, orders.Generate()); err != nil {
		return err
	}
	return os.WriteFile(file, b.Bytes(), 0o644)
}
