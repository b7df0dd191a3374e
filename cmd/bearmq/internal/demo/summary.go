package demo

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// A Summary is what a demo has shown.
type Summary struct {
	OK              bool               `json:"ok"`
	Jobs            int                `json:"jobs"`
	Customers       int                `json:"customers"`
	Attempts        int                `json:"attempts"`
	FailedAttempts  int                `json:"failed_attempts"`
	LossesRecovered int                `json:"losses_recovered"`
	RecoverSeconds  float64            `json:"recover_seconds"`
	Rate            int                `json:"arrivals_per_second"`
	JobsPerSecond   float64            `json:"jobs_per_second"`
	Seconds         float64            `json:"seconds"`
	Latency         map[string]Latency `json:"latency_ms"`
	Checked         Checked            `json:"checked"`
	Differences     []string           `json:"differences"`
	PostgreSQL      string             `json:"postgresql"`
}

// Latency is from the enqueueing of a job to its booking, in milliseconds.
type Latency struct {
	Jobs int     `json:"jobs"`
	P50  float64 `json:"p50"`
	P95  float64 `json:"p95"`
	P99  float64 `json:"p99"`
}

// slow is a latency, in milliseconds, that wants an explanation.
const slow = 1000

// Checked counts what was compared with the file.
type Checked struct {
	Balances  int `json:"balances"`
	Sequences int `json:"sequences"`
}

// tell adds what the ledger says.
func (s *Summary) tell(ledger []entry) {
	s.Jobs = len(ledger)
	waits := map[string][]time.Duration{}
	for _, e := range ledger {
		s.Attempts += e.Attempt
		s.FailedAttempts += e.Attempt - 1
		waits["all"] = append(waits["all"], e.Latency)
		waits[e.Channel] = append(waits[e.Channel], e.Latency)
	}
	s.Latency = map[string]Latency{}
	for name, all := range waits {
		slices.Sort(all)
		s.Latency[name] = Latency{len(all), percentile(all, 50), percentile(all, 95), percentile(all, 99)}
	}
}

// percentile is the smallest of the sorted durations that p percent of them
// do not exceed, in milliseconds.
func percentile(sorted []time.Duration, p int) float64 {
	if len(sorted) == 0 {
		return 0
	}
	at := (len(sorted)*p+99)/100 - 1
	return float64(sorted[max(at, 0)].Microseconds()) / 1000
}

// Print writes the summary as a table.
func (s *Summary) Print(out io.Writer) {
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(name, value, note string) {
		fmt.Fprintf(w, "  %s\t%s\t%s\n", name, fmt.Sprintf("%12s", value), note)
	}
	line("jobs", thousands(s.Jobs), fmt.Sprintf("of %d customers, one at a time and in order for each", s.Customers))
	line("attempts", thousands(s.Attempts), "each order succeeded once")
	line("failed attempts", thousands(s.FailedAttempts), "the payment failed, and was tried again 50 ms later")
	line("losses recovered", thousands(s.LossesRecovered), "jobs that the killed worker had")
	line("time to recover", fmt.Sprintf("%.1f s", s.RecoverSeconds), "from the kill until they were back")
	line("jobs/s", thousands(int(s.JobsPerSecond)), fmt.Sprintf("on average of %.1f s; orders arrived at %s/s", s.Seconds, thousands(s.Rate)))
	_ = w.Flush()

	fmt.Fprintf(out, "\n  %-26s%10s%10s%10s%10s\n", "enqueue to finish", "jobs", "p50", "p95", "p99")
	for _, row := range []struct{ key, label string }{{"all", "all jobs"}, {express, "express (channel HIGH)"}, {defaultChannel, "standard"}} {
		if l, ok := s.Latency[row.key]; ok {
			fmt.Fprintf(out, "    %-24s%10s%10s%10s%10s\n", row.label, thousands(l.Jobs), milliseconds(l.P50), milliseconds(l.P95), milliseconds(l.P99))
		}
	}
	if all := s.Latency["all"]; all.P50 > slow {
		fmt.Fprintln(out, "  Orders arrived faster than this machine books them (see --rate): most of this is waiting in line.")
	} else if s.LossesRecovered > 0 && all.P99 > slow {
		fmt.Fprintln(out, "  The slowest are those of customers who waited for the killed worker.")
	}
	fmt.Fprintln(out)
	if s.OK {
		fmt.Fprintf(out, "  OK: %s balances and %s sequences are what one process makes of the file.\n",
			thousands(s.Checked.Balances), thousands(s.Checked.Sequences))
		return
	}
	fmt.Fprintf(out, "  WRONG: %s differences from what one process makes of the file:\n", thousands(len(s.Differences)))
	for i, d := range s.Differences {
		if i == 10 {
			fmt.Fprintf(out, "    and %s more\n", thousands(len(s.Differences)-i))
			break
		}
		fmt.Fprintln(out, "    "+d)
	}
}

// thousands writes 12345 as 12,345.
func thousands[N int | int64](n N) string {
	if n < 0 {
		return "-" + thousands(-n)
	}
	digits := strconv.FormatInt(int64(n), 10)
	var b strings.Builder
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(d)
	}
	return b.String()
}

// money writes cents as 1,234.56.
func money(cents int64) string {
	sign := ""
	if cents < 0 {
		sign, cents = "-", -cents
	}
	return fmt.Sprintf("%s%s.%02d", sign, thousands(cents/100), cents%100)
}

// milliseconds writes 12.3 ms, and from a second on 1.23 s.
func milliseconds(ms float64) string {
	if ms >= 1000 {
		return fmt.Sprintf("%.2f s", ms/1000)
	}
	return fmt.Sprintf("%.1f ms", ms)
}
