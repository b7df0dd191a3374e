package bearmq

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func slotsBetween(t *testing.T, s Schedule[None], from, to string) []string {
	t.Helper()
	require.NoError(t, s.err)
	end := instant(t, to)
	slots := []string{}
	for slot := s.Next(instant(t, from).Add(-1)); slot.Before(end); slot = s.Next(slot) {
		slots = append(slots, slot.Format("01-02 15:04 -0700"))
	}
	return slots
}

func instant(t *testing.T, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339Nano, text)
	require.NoError(t, err)
	return at
}

// What is documented for the changes of the clocks, in both directions: by an
// hour in New York, by half an hour on Lord Howe Island.
func TestCronDaylightSaving(t *testing.T) {
	t.Parallel()
	const newYork, lordHowe = "America/New_York", "Australia/Lord_Howe"
	for _, test := range []struct {
		spec, zone, from, to string
		want                 []string
	}{
		// 02:00 -0500 is 03:00 -0400.
		{"30 2 * * *", newYork, "2026-03-07T00:00:00-05:00", "2026-03-10T00:00:00-04:00", []string{"03-07 02:30 -0500", "03-08 03:00 -0400", "03-09 02:30 -0400"}},
		{"0 2 * * *", newYork, "2026-03-08T00:00:00-05:00", "2026-03-09T00:00:00-04:00", []string{"03-08 03:00 -0400"}},
		{"0 3 * * *", newYork, "2026-03-08T00:00:00-05:00", "2026-03-09T00:00:00-04:00", []string{"03-08 03:00 -0400"}},
		{"59 1 * * *", newYork, "2026-03-08T00:00:00-05:00", "2026-03-09T00:00:00-04:00", []string{"03-08 01:59 -0500"}},
		{"*/20 1-3 * * *", newYork, "2026-03-08T00:00:00-05:00", "2026-03-09T00:00:00-04:00",
			[]string{"03-08 01:00 -0500", "03-08 01:20 -0500", "03-08 01:40 -0500", "03-08 03:00 -0400", "03-08 03:20 -0400", "03-08 03:40 -0400"}},
		{"10,40 2 * * *", newYork, "2026-03-08T00:00:00-05:00", "2026-03-09T00:00:00-04:00", []string{"03-08 03:00 -0400"}},
		{"30 2 8 3 *", newYork, "2026-01-01T00:00:00-05:00", "2027-01-01T00:00:00-05:00", []string{"03-08 03:00 -0400"}},
		{"5 * * * *", newYork, "2026-03-08T00:00:00-05:00", "2026-03-08T05:00:00-04:00",
			[]string{"03-08 00:05 -0500", "03-08 01:05 -0500", "03-08 03:05 -0400", "03-08 04:05 -0400"}},
		{"0 * * * *", newYork, "2026-03-08T01:00:00-05:00", "2026-03-08T05:00:00-04:00", []string{"03-08 01:00 -0500", "03-08 03:00 -0400", "03-08 04:00 -0400"}},
		// 02:00 -0400 is 01:00 -0500.
		{"30 1 * * *", newYork, "2026-10-31T00:00:00-04:00", "2026-11-03T00:00:00-05:00", []string{"10-31 01:30 -0400", "11-01 01:30 -0400", "11-02 01:30 -0500"}},
		{"0 1 * * *", newYork, "2026-11-01T00:00:00-04:00", "2026-11-02T00:00:00-05:00", []string{"11-01 01:00 -0400"}},
		{"0 2 * * *", newYork, "2026-11-01T00:00:00-04:00", "2026-11-02T00:00:00-05:00", []string{"11-01 02:00 -0500"}},
		{"*/30 1-2 * * *", newYork, "2026-11-01T00:00:00-04:00", "2026-11-02T00:00:00-05:00",
			[]string{"11-01 01:00 -0400", "11-01 01:30 -0400", "11-01 02:00 -0500", "11-01 02:30 -0500"}},
		{"30 * * * *", newYork, "2026-11-01T00:00:00-04:00", "2026-11-01T03:00:00-05:00",
			[]string{"11-01 00:30 -0400", "11-01 01:30 -0400", "11-01 01:30 -0500", "11-01 02:30 -0500"}},
		// 02:00 +1030 is 02:30 +1100.
		{"15 2 * * *", lordHowe, "2026-10-03T00:00:00+10:30", "2026-10-06T00:00:00+11:00", []string{"10-03 02:15 +1030", "10-04 02:30 +1100", "10-05 02:15 +1100"}},
		{"0 2 * * *", lordHowe, "2026-10-04T00:00:00+10:30", "2026-10-05T00:00:00+11:00", []string{"10-04 02:30 +1100"}},
		{"30 2 * * *", lordHowe, "2026-10-04T00:00:00+10:30", "2026-10-05T00:00:00+11:00", []string{"10-04 02:30 +1100"}},
		{"*/15 2 * * *", lordHowe, "2026-10-04T00:00:00+10:30", "2026-10-05T00:00:00+11:00", []string{"10-04 02:30 +1100", "10-04 02:45 +1100"}},
		{"15 * * * *", lordHowe, "2026-10-04T01:00:00+10:30", "2026-10-04T04:00:00+11:00", []string{"10-04 01:15 +1030", "10-04 03:15 +1100"}},
		{"*/10 * * * *", lordHowe, "2026-10-04T01:45:00+10:30", "2026-10-04T02:45:00+11:00", []string{"10-04 01:50 +1030", "10-04 02:30 +1100", "10-04 02:40 +1100"}},
		// 02:00 +1100 is 01:30 +1030.
		{"45 1 * * *", lordHowe, "2026-04-04T00:00:00+11:00", "2026-04-07T00:00:00+10:30", []string{"04-04 01:45 +1100", "04-05 01:45 +1100", "04-06 01:45 +1030"}},
		{"30 1 * * *", lordHowe, "2026-04-05T00:00:00+11:00", "2026-04-06T00:00:00+10:30", []string{"04-05 01:30 +1100"}},
		{"0 2 * * *", lordHowe, "2026-04-05T00:00:00+11:00", "2026-04-06T00:00:00+10:30", []string{"04-05 02:00 +1030"}},
		{"15 1 * * *", lordHowe, "2026-04-05T00:00:00+11:00", "2026-04-06T00:00:00+10:30", []string{"04-05 01:15 +1100"}},
		{"*/20 * * * *", lordHowe, "2026-04-05T01:00:00+11:00", "2026-04-05T02:10:00+10:30",
			[]string{"04-05 01:00 +1100", "04-05 01:20 +1100", "04-05 01:40 +1100", "04-05 01:40 +1030", "04-05 02:00 +1030"}},
	} {
		assert.Equal(t, test.want, slotsBetween(t, Cron(test.spec, test.zone), test.from, test.to), "%s in %s from %s", test.spec, test.zone, test.from)
	}
}

// Minute by minute, with clocks that are read and nothing computed, around
// changes of all kinds: two hours in Troll, a day that Apia left out, two
// more changes each year in Casablanca.
func TestCronAgainstTheClock(t *testing.T) {
	t.Parallel()
	for zone, year := range map[string]int{"America/New_York": 2026, "Australia/Lord_Howe": 2026, "Antarctica/Troll": 2025, "Pacific/Apia": 2011,
		"Africa/Casablanca": 2026, "America/St_Johns": 2010, "Asia/Kathmandu": 2026, "UTC": 2026} {
		t.Run(zone, func(t *testing.T) {
			t.Parallel()
			location, err := time.LoadLocation(zone)
			require.NoError(t, err)
			begin := time.Date(year, 1, 1, 0, 0, 0, 0, location)
			changes := []time.Time{begin.AddDate(0, 0, 3)} // and some ordinary days
			for _, change := begin.ZoneBounds(); change.Year() == year; _, change = change.ZoneBounds() {
				changes = append(changes, change)
			}
			for _, spec := range []string{"*/15 * * * *", "7 * * * *", "0 0 * * *", "30 2 * * *", "15,45 1-3 * * *", "*/7 */2 * * *", "1 0-22 * * 0", "30 1 1-7 * 0"} {
				slots := 0
				for _, change := range changes {
					slots += readClock(t, spec, location, change.Truncate(time.Hour).Add(-50*time.Hour), change.Add(50*time.Hour))
				}
				require.Positive(t, slots)
			}
		})
	}
}

// readClock compares a line with what the clocks read in each minute, and
// counts the slots.
func readClock(t *testing.T, spec string, zone *time.Location, from, to time.Time) (slots int) {
	t.Helper()
	s := Cron(spec, zone.String())
	require.NoError(t, s.err)
	everyHour := strings.Fields(spec)[1] == "*"
	next := s.Next(from)
	highest := clock(from.In(zone))
	for at := from.Add(time.Minute); at.Before(to); at = at.Add(time.Minute) {
		now := clock(at.In(zone))
		due := everyHour && fits(spec, now)
		for ; highest.Before(now); highest = highest.Add(time.Minute) {
			due = due || !everyHour && fits(spec, highest.Add(time.Minute))
		}
		require.Equal(t, due, next.Equal(at), "%s in %v at %v, next %v", spec, zone, at, next)
		if due {
			next = s.Next(at)
			slots++
		}
	}
	return slots
}

// fits reads a line by itself, as far as the specs above need it.
func fits(spec string, at time.Time) bool {
	f := strings.Fields(spec)
	in := func(field string, n int) bool {
		for part := range strings.SplitSeq(field, ",") {
			var low, high int
			switch step, stepped := strings.CutPrefix(part, "*/"); {
			case part == "*":
				return true
			case stepped:
				if n%atoi(step) == 0 {
					return true
				}
				continue
			}
			from, to, ranged := strings.Cut(part, "-")
			low, high = atoi(from), atoi(from)
			if ranged {
				high = atoi(to)
			}
			if low <= n && n <= high {
				return true
			}
		}
		return false
	}
	dom, dow := in(f[2], at.Day()), in(f[4], int(at.Weekday()))
	day := dom && dow
	if f[2] != "*" && f[4] != "*" {
		day = dom || dow
	}
	return in(f[0], at.Minute()) && in(f[1], at.Hour()) && day && in(f[3], int(at.Month()))
}

func atoi(text string) (n int) {
	for _, digit := range text {
		n = 10*n + int(digit-'0')
	}
	return n
}

func TestCronSlots(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ spec, zone, after, want string }{
		{"0 9 * * 1-5", "Europe/Berlin", "2026-11-20T12:00:00Z", "2026-11-23T09:00:00+01:00"},
		{"0 9 * * *", "", "2026-11-20T09:00:00Z", "2026-11-21T09:00:00Z"},
		{"0 9 * * *", "UTC", "2026-11-20T08:59:59.999999Z", "2026-11-20T09:00:00Z"},
		{"* * * * *", "UTC", "2026-11-20T08:59:00.5Z", "2026-11-20T09:00:00Z"},
		{"30 4 1,15 * 5", "UTC", "2026-11-20T05:00:00Z", "2026-11-27T04:30:00Z"}, // either
		{"0 0 29 2 *", "UTC", "2096-03-01T00:00:00Z", "2104-02-29T00:00:00Z"},    // 2100 is no leap year
		// Between the first and the second time that the clocks read it.
		{"30 1 * * *", "America/New_York", "2026-11-01T01:10:00-05:00", "2026-11-02T01:30:00-05:00"},
		{"*/10 1,2 * * *", "America/New_York", "2026-11-01T01:15:00-05:00", "2026-11-01T02:00:00-05:00"},
		{"45 1 * * *", "Australia/Lord_Howe", "2026-04-05T01:35:00+10:30", "2026-04-06T01:45:00+10:30"},
		{"@yearly", "Asia/Tokyo", "2026-11-20T00:00:00Z", "2027-01-01T00:00:00+09:00"},
		{"@Weekly", "UTC", "2026-11-20T00:00:00Z", "2026-11-22T00:00:00Z"},
	} {
		s := Cron(test.spec, test.zone)
		require.NoError(t, s.err, test.spec)
		assert.Equal(t, test.want, s.Next(instant(t, test.after)).Format(time.RFC3339Nano), "%s after %s", test.spec, test.after)
	}
}

// Lines that mean the same are the same schedule.
func TestCronText(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ spec, zone, want string }{
		{"0 9 * * 1-5", "Europe/Berlin", "cron 0 9 * * 1-5 Europe/Berlin"},
		{"  00 09 ?  * mon-FRI ", "Europe/Berlin", "cron 0 9 * * 1-5 Europe/Berlin"},
		{"0 9 * 1,2,3,12 MON,TUE,WED,4,5", "", "cron 0 9 * 1-3,12 1-5 UTC"},
		{"*/15 0-23 * JAN-DEC *", "UTC", "cron */15 * * * * UTC"},
		{"0,15,30,45 */1 * */3 *", "UTC", "cron */15 * * */3 * UTC"},
		{"1-59/2 8,10 1-31 * 6", "UTC", "cron 1,3,5,7,9,11,13,15,17,19,21,23,25,27,29,31,33,35,37,39,41,43,45,47,49,51,53,55,57,59 8,10 1-31 * 6 UTC"},
		{"@daily", "UTC", "cron 0 0 * * * UTC"},
		{"@midnight", "UTC", "cron 0 0 * * * UTC"},
	} {
		s := Cron(test.spec, test.zone)
		require.NoError(t, s.err, test.spec)
		assert.Equal(t, test.want, s.String())
	}
}

func TestCronRefused(t *testing.T) {
	t.Parallel()
	mq := offline(t, Options{})
	for _, test := range []struct{ spec, zone, reason string }{
		{"", "UTC", "five fields"},
		{"* * * *", "UTC", "five fields"},
		{"0 * * * * *", "UTC", "five fields"},
		{"60 * * * *", "UTC", "five fields"},
		{"* * * * 7", "UTC", "five fields"},
		{"*/0 * * * *", "UTC", "five fields"},
		{"5-1 * * * *", "UTC", "five fields"},
		{"@never", "UTC", "five fields"},
		{"@every 5m", "UTC", "use Every"},
		{"TZ=UTC", "UTC", "second argument"},
		{"CRON_TZ=UTC 0 9 * * *", "UTC", "second argument"},
		{"0 0 31 2 *", "UTC", "a day that exists"},
		{"0 9 * * *", "Europe/Bonn", "time zone"},
		{"0 9 * * *", "Local", "another machine"},
		{"0 9 * * *", "../etc/passwd", "time zone"},
	} {
		s := Cron(test.spec, test.zone)
		err := mq.Register(Define(Spec[None]{Name: "x"}).Repeat(s))
		requireRefused(t, err, "Cron")
		assert.ErrorContains(t, err, test.reason, "%q in %q", test.spec, test.zone)
		assert.Zero(t, s.Next(time.Now()))
		assert.Empty(t, s.Preview(3))
	}
}

func TestPreview(t *testing.T) {
	t.Parallel()
	for _, s := range []Schedule[None]{Every(time.Hour), Cron("0 * * * *", "UTC")} {
		slots := s.Preview(3)
		require.Len(t, slots, 3)
		require.Equal(t, []time.Time{slots[0], slots[0].Add(time.Hour), slots[0].Add(2 * time.Hour)}, slots)
		require.WithinRange(t, slots[0], time.Now().Add(-time.Minute), time.Now().Add(time.Hour))
		require.Empty(t, s.Preview(0))
		require.Empty(t, s.Preview(-1))
	}
}

func FuzzCron(f *testing.F) {
	for _, spec := range []string{"0 9 * * 1-5", "*/15 1-3 1,15 jan-jun ?", "@daily", "TZ=", "0 0 29 2 *", "1-59/2 * * * *", "* * 31 2,4 *", "@every 1s", "0 24 * * *"} {
		f.Add(spec, "America/New_York", int64(1_770_000_000))
		f.Add(spec, "Australia/Lord_Howe", int64(-1))
	}
	f.Fuzz(func(t *testing.T, spec, zone string, seconds int64) {
		s := Cron(spec, zone)
		after := time.Unix(seconds, 0)
		if s.err != nil || after.Year() < 1900 || after.Year() > 9000 {
			return
		}
		next := s.Next(after)
		require.True(t, next.After(after))
		require.Equal(t, next, s.Next(next.Add(-1)), "the same slot for everybody who looks before it")
		require.Zero(t, next.Unix()%60*int64(min(max(next.Year()-1972, 0), 1)), "whole minutes, since zones have them")

		text, ok := strings.CutPrefix(s.String(), "cron ")
		require.True(t, ok)
		last := strings.LastIndexByte(text, ' ')
		again := Cron(text[:last], text[last+1:])
		require.NoError(t, again.err)
		require.Equal(t, s.String(), again.String())
		require.Equal(t, next, again.Next(after), "the text says what it is")
	})
}
