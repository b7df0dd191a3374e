package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// table is the Markdown table of the goals.
func table(results map[string]*result) string {
	var b strings.Builder
	b.WriteString("| row | what | goal | median | lowest … highest | met | command |\n|---|---|---|---|---|---|---|\n")
	last := ""
	for _, g := range goals {
		row, command := "`"+g.row+"`", ""
		if res := results[g.row]; res != nil {
			command = "`" + res.Command + "`"
		}
		if g.row == last {
			row, command = "", ""
		}
		last = g.row
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", row, g.what, g.wanted(), g.cells(results), command)
	}
	return b.String()
}

func (g goal) wanted() string {
	switch g.bound {
	case atLeast:
		return "≥ " + g.print(g.value)
	case atMost:
		return "≤ " + g.print(g.value)
	}
	return ""
}

// cells are the median, the spread and whether that is good enough.
func (g goal) cells(results map[string]*result) string {
	s, ok := g.measured(results)
	if !ok {
		return "not measured | | "
	}
	met := "**no**"
	switch {
	case g.bound == stated:
		met = ""
	case g.met(s):
		met = "yes"
	}
	between := "one round"
	if len(results[g.row].EachRound) > 1 {
		between = g.print(s.lowest) + " … " + g.print(s.highest)
	}
	return fmt.Sprintf("%s | %s | %s", g.print(s.median), between, met)
}

// where says on what the rows were measured: once, where they agree.
func where(results map[string]*result) string {
	rows := map[string][]string{}
	var order []string
	for _, name := range sortedKeys(results) {
		text := results[name].Machine.String()
		if rows[text] == nil {
			order = append(order, text)
		}
		rows[text] = append(rows[text], name)
	}
	var b strings.Builder
	b.WriteString(when(results))
	for _, text := range order {
		if len(order) > 1 {
			fmt.Fprintf(&b, "- %s: ", strings.Join(rows[text], ", "))
		}
		b.WriteString(text + "\n")
	}
	return b.String()
}

// when are the days on which the rows were measured.
func when(results map[string]*result) string {
	var days []string
	for _, res := range results {
		day, _, _ := strings.Cut(res.Date, "T")
		days = append(days, day)
	}
	if len(days) == 0 {
		return ""
	}
	if first, last := slices.Min(days), slices.Max(days); first != last {
		return fmt.Sprintf("From %s to %s:\n\n", first, last)
	}
	return fmt.Sprintf("On %s:\n\n", days[0])
}

// String leaves out the settings that depend on the row: max_connections, and
// autovacuum, which is off while idle queries are counted.
func (m machine) String() string {
	cpu := ""
	if m.CPU != "" {
		cpu = " (" + m.CPU + ")"
	}
	var settings []string
	for _, name := range sortedKeys(m.Settings) {
		if name != "max_connections" && name != "autovacuum" {
			settings = append(settings, "`"+name+"` "+m.Settings[name])
		}
	}
	return fmt.Sprintf("%d cores%s, %s, %s, PostgreSQL %s, %s: %s.", m.Cores, cpu, m.System, m.Go, m.PostgreSQL, m.Server, strings.Join(settings, ", "))
}

// replaceBetween puts text between the markers <!-- NAME --> and <!-- /NAME -->.
func replaceBetween(doc, name, text string) (string, error) {
	begin, end := "<!-- "+name+" -->\n", "<!-- /"+name+" -->"
	i := strings.Index(doc, begin)
	if i < 0 {
		return "", fmt.Errorf("it has no marker %s", strings.TrimSpace(begin))
	}
	i += len(begin)
	j := strings.Index(doc[i:], end)
	if j < 0 {
		return "", fmt.Errorf("it has no marker %s after %s", end, strings.TrimSpace(begin))
	}
	return doc[:i] + text + doc[i+j:], nil
}

// updateDoc brings the generated parts of the document up to date.
func updateDoc(path string, results map[string]*result) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	doc := string(text)
	for _, part := range []struct{ name, text string }{{"figures", table(results)}, {"machine", where(results)}} {
		if doc, err = replaceBetween(doc, part.name, part.text); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return os.WriteFile(path, []byte(doc), 0o644)
}
