package bench

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// table writes the report for people.
func (r *report) table(w io.Writer) error {
	var b bytes.Buffer
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	line := func(cells ...any) {
		for i, c := range cells {
			if i > 0 {
				fmt.Fprint(t, "\t")
			}
			fmt.Fprint(t, c)
		}
		fmt.Fprintln(t)
	}
	fmt.Fprintf(&b, "\nbearmq bench %s: %s\n", r.Work, r.what())
	fmt.Fprintf(&b, "%s\n\n", r.where())

	o := r.opts
	line("", "median", "lowest … highest of "+plural(r.Rounds, "round"))
	switch r.Work {
	case "idle":
		line("queries in "+o.duration.String(), thousands(int(r.Queries)), perSecond(r.Spread, "/s"))
		line("  transactions, pings of the pool included", thousands(int(r.Transactions)))
		line("  of as many empty round trips as the server can do", fmt.Sprintf("%.4f %%", 100*r.Ratio))
	case "latency":
		r.latencyLines(line)
		line("  p50 in single commits", fmt.Sprintf("%.1f", r.LatencyCommits.P50), between(r.RatioSpread, "%.1f"))
		line("  p99 in single commits", fmt.Sprintf("%.1f", r.LatencyCommits.P99))
		line("floor: a single commit", ms(r.CommitMS))
	default:
		line(verb[r.Work], number(r.Rate)+" jobs/s", perSecond(r.Spread, ""))
		line("floor", number(r.Floor)+" rows/s")
		if r.Work == "stream" && o.rate > 0 {
			line("ratio", fmt.Sprintf("%.2f", r.Ratio), "the rate was given: it says how busy the stream is")
		} else {
			line("ratio", fmt.Sprintf("%.2f", r.Ratio), between(r.RatioSpread, "%.2f"))
		}
		if r.FastFloor > 0 {
			line("floor by ctid", number(r.FastFloor)+" rows/s")
			line("ratio to that", fmt.Sprintf("%.2f", r.FastRatio))
		}
		r.latencyLines(line)
	}
	if len(r.WALParts) > 0 {
		line("WAL bytes a job", fmt.Sprintf("%.0f", r.WAL), r.walSplit())
	}
	if r.Deleted > 0 {
		line("deleted afterwards", number(r.Deleted)+" jobs/s")
	}
	if o.backlog > 0 && r.FirstStartMS > 0 {
		line("first job started after", ms(r.FirstStartMS))
		line("jobs/s from then on", number(r.StartedRate))
	}
	if r.Occupancy > 0 {
		line("slots occupied", percent(r.Occupancy))
	}
	if claims, ok := r.Calls["claim"]; ok && r.Work == "stream" {
		line(thousands(claims.Calls)+" claims, p50", ms(claims.P50), "also those that found nothing, as the worker sees them")
		line("  p99", ms(claims.P99))
	}
	if r.Work != "latency" {
		line("a single-row commit takes", ms(r.CommitMS))
	}
	line("an empty round trip takes", ms(r.RoundTripMS))
	if err := t.Flush(); err != nil {
		return err
	}
	if len(r.Tenths) > 0 && r.Work != "latency" && r.Work != "idle" {
		of := "jobs/s in each tenth of the jobs"
		if r.Work == "stream" && o.rate > 0 {
			of = "jobs/s in each tenth of the time"
		}
		fmt.Fprintf(&b, "\n%s  %s\n ", of, sparkline(r.Tenths))
		for _, rate := range r.Tenths {
			fmt.Fprintf(&b, " %s", number(rate))
		}
		fmt.Fprintf(&b, "\n  last / first: %.2f\n", r.LastToFirst)
	}
	r.sizeLines(&b)
	fmt.Fprintf(&b, "\nchecked: %s\n", r.Check)
	fmt.Fprintf(&b, "the floor: %s; %s\n", r.FloorIs, state[r.Work])
	for _, name := range o.work.floorSQL {
		for _, l := range strings.Split(sql(name), "\n") {
			if !strings.HasPrefix(l, "--") {
				fmt.Fprintf(&b, "    %s\n", l)
			}
		}
	}
	fmt.Fprintf(&b, "the server: %s\n", r.settings())
	_, err := w.Write(b.Bytes())
	return err
}

var verb = map[string]string{"bulk": "enqueued", "enqueue": "enqueued", "drain": "ran", "stream": "ran"}

// state says in which state the tables are.
var state = map[string]string{
	"bulk":    "both write to new tables, after a checkpoint",
	"enqueue": "both write to new tables, after a checkpoint",
	"drain":   "both tables are new and loaded, followed by a checkpoint, without VACUUM; the floor's is analyzed, BearMQ's are not",
	"stream":  "its table is new and loaded, analyzed, followed by a checkpoint, without VACUUM; BearMQ's are new and empty",
	"latency": "both in new tables, after a checkpoint",
	"idle":    "nothing is written; autovacuum is off on a private server, its transactions would count",
}

// what says what was measured.
func (r *report) what() string {
	o := r.opts
	parts := []string{fmt.Sprintf("%s jobs of %d bytes", thousands(r.Jobs), o.payloadBytes)}
	switch {
	case o.groups == each:
		parts = append(parts, "a group each")
	case o.groups > 0:
		parts = append(parts, "in "+plural(o.groups, "group"))
	}
	if o.channels > 1 {
		parts = append(parts, "in "+plural(o.channels, "channel"))
	}
	if o.backlog > 0 {
		parts = append(parts, fmt.Sprintf("behind %s blocked ones", thousands(o.backlog)))
	}
	switch r.Work {
	case "bulk", "enqueue":
		parts = append(parts, "enqueued on "+plural(o.connections, "connection"))
	case "stream":
		if o.rate > 0 {
			parts = append(parts, fmt.Sprintf("%s/s for %v", number(o.rate), o.duration))
		} else {
			parts = append(parts, "as fast as they come")
		}
	case "latency":
		if o.delayed {
			parts = append(parts, "due within one second")
		} else {
			parts = append(parts, fmt.Sprintf("%s/s", number(o.rate)))
		}
		if o.inTx {
			parts = append(parts, "in a transaction each")
		}
	case "idle":
		parts = []string{"a worker and an orchestrator with nothing to do, " + plural(o.channels, "channel")}
	}
	if r.Work == "drain" || r.Work == "stream" || r.Work == "latency" {
		by := plural(o.processes, "worker process")
		if o.slots > 0 {
			by += fmt.Sprintf(" of %s", plural(o.slots, "slot"))
		}
		if o.disjoint {
			by += " with names of their own"
		}
		parts = append(parts, by)
	}
	if o.handler > 0 {
		parts = append(parts, fmt.Sprintf("handlers of %v", o.handler))
	}
	if o.retention != keepDefault && (r.Work == "stream" || r.Work == "drain") {
		parts = append(parts, fmt.Sprintf("kept for %v", o.retention))
	}
	if o.holdSnapshot {
		parts = append(parts, "under a held snapshot (the floor without)")
	}
	return strings.Join(parts, ", ")
}

func (r *report) where() string {
	m := r.Machine
	cpu := ""
	if m.CPU != "" {
		cpu = " (" + m.CPU + ")"
	}
	return fmt.Sprintf("%s%s, %s, %s, PostgreSQL %s, %s", plural(m.Cores, "core"), cpu, m.System, m.Go, m.PostgreSQL, m.Server)
}

func (r *report) settings() string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(r.Machine.Settings)) {
		parts = append(parts, name+" "+r.Machine.Settings[name])
	}
	return strings.Join(parts, ", ")
}

func (r *report) latencyLines(line func(...any)) {
	if r.Latency == nil {
		return
	}
	line(r.LatencyIs, "")
	line("  p50", ms(r.Latency.P50))
	line("  p95", ms(r.Latency.P95))
	line("  p99", ms(r.Latency.P99))
}

// walSplit says of what the WAL consists.
func (r *report) walSplit() string {
	var parts []string
	if len(r.WALParts) > 1 {
		for _, p := range r.WALParts {
			parts = append(parts, fmt.Sprintf("%s %.0f", p.Name, p.BytesJob))
		}
	} else {
		parts = append(parts, r.WALParts[0].Name)
	}
	text := strings.Join(parts, " + ") + "; without full-page images"
	if r.WALPartial {
		text += ", by " + byEstimate
	}
	return text
}

// sizeLines show how the tables grew, in tenths of the time.
func (r *report) sizeLines(w io.Writer) {
	if len(r.Sizes) < 10 {
		return
	}
	tenths := make([]float64, 10)
	for i, s := range r.Sizes {
		n := i * 10 / len(r.Sizes)
		tenths[n] = max(tenths[n], s.TotalMB)
	}
	fmt.Fprintf(w, "\nMB of all tables and indexes in each tenth of the time  %s\n ", sparkline(tenths))
	for _, mb := range tenths {
		fmt.Fprintf(w, " %.0f", mb)
	}
	fmt.Fprintf(w, "\n  last / middle: %.2f; at the end:", tenths[9]/tenths[4])
	last := r.Sizes[len(r.Sizes)-1].MB
	for _, table := range slices.SortedFunc(maps.Keys(last), func(a, b string) int { return int(1e3 * (last[b] - last[a])) })[:4] {
		fmt.Fprintf(w, " %s %.0f", table, last[table])
	}
	fmt.Fprintln(w)
}

// sparkline draws values as columns, from 0 to the highest.
func sparkline(values []float64) string {
	const columns = "▁▂▃▄▅▆▇█"
	var b strings.Builder
	top := max(slices.Max(values), 1e-9)
	for _, v := range values {
		b.WriteRune([]rune(columns)[min(int(v/top*8), 7)])
	}
	return b.String()
}

func ms(v float64) string { return fmt.Sprintf("%.2f ms", v) }

func percent(share float64) string { return fmt.Sprintf("%.1f %%", 100*share) }

func between(s spread, format string) string {
	if s.Min == s.Max {
		return ""
	}
	return fmt.Sprintf(format+" … "+format, s.Min, s.Max)
}

func perSecond(s spread, unit string) string {
	if s.Min == s.Max {
		return ""
	}
	return number(s.Min) + unit + " … " + number(s.Max) + unit
}

// number is a rate with three digits that mean something.
func number(v float64) string {
	switch {
	case v >= 1000:
		return thousands(int(v))
	case v >= 10:
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// thousands is a number as people read it.
func thousands(n int) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

func plural(n int, what string) string {
	switch {
	case n == 1:
		return "1 " + what
	case strings.HasSuffix(what, "s"):
		what += "es"
	default:
		what += "s"
	}
	return thousands(n) + " " + what
}
