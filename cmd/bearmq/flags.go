package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
)

// flags are those of one command. All commands have --json.
type flags struct {
	*flag.FlagSet
	command string
	help    func() // writes it
	json    bool
}

// newFlags makes the flags of a command, whose help begins with usage.
func newFlags(command, usage string, s streams) *flags {
	f := &flags{FlagSet: flag.NewFlagSet(command, flag.ContinueOnError), command: command}
	f.SetOutput(io.Discard) // report writes the errors
	f.BoolVar(&f.json, "json", false, "write the answer as JSON")
	f.Usage = func() {} // the flag package calls it for errors too
	f.help = func() {
		fmt.Fprintf(s.out, "%s\n\n", usage)
		f.VisitAll(func(fl *flag.Flag) {
			value, text := flag.UnquoteUsage(fl)
			if fl.DefValue != "" && fl.DefValue != "false" && fl.DefValue != "0" {
				text += " (default " + fl.DefValue + ")"
			}
			fmt.Fprintf(s.out, "  %-18s %s\n", strings.TrimSpace("--"+fl.Name+" "+value), text)
		})
	}
	return f
}

// parse reads the flags, and returns what stands before, between and after them.
func (f *flags) parse(args []string) (others []string, err error) {
	for len(args) > 0 {
		if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
			f.help()
			return nil, err
		} else if err != nil {
			return nil, &usageError{strings.ReplaceAll(err.Error(), " -", " --"), f.command}
		}
		if args = f.Args(); len(args) > 0 {
			others, args = append(others, args[0]), args[1:]
		}
	}
	return others, nil
}

// parseOnly reads the flags of a command that takes nothing else.
func (f *flags) parseOnly(args []string) error {
	others, err := f.parse(args)
	if err == nil && len(others) > 0 {
		err = &usageError{fmt.Sprintf("%s takes no %q", f.command, others[0]), f.command}
	}
	return err
}

// wantsJSON is for errors that happen before, or while, flags are read.
func wantsJSON(args []string) bool {
	return slices.Contains(args, "--json") || slices.Contains(args, "-json")
}
