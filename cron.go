package bearmq

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// Cron is due at the times of a crontab line, by the clocks of a time zone:
// Cron("0 9 * * 1-5", "Europe/Berlin"). The five fields are minute, hour, day
// of the month, month and day of the week (0 to 6, 0 is Sunday), as
// [github.com/robfig/cron/v3] reads them: lists, ranges, steps, names (MON,
// JAN), and @hourly, @daily, @midnight, @weekly, @monthly, @yearly and
// @annually instead of all five. Where both the day of the month and the day
// of the week are given, a day that fits either counts. For "@every" there is
// [Every].
//
// The zone is a name as [time.LoadLocation] takes it, "" is UTC. "Local" is
// refused: it is another zone on another machine. A machine without a database
// of time zones needs the import of [time/tzdata].
//
// # Daylight saving
//
// Where the clocks go forward, the slots that they pass over are due at once
// after the gap, together as one: 02:30 is due at 03:00 where 02:00 to 03:00
// does not exist. Where they go back, a slot of the time that comes twice is
// due the first time only. So a daily job runs once on each day.
//
// A schedule of every hour (its hour field is *) rather follows the time that
// passes, as with cron: it has no slots in the gap, and those of the time that
// comes twice are due twice. So a job of each quarter of an hour runs each
// quarter of an hour.
//
// Both hold for any shift, such as the half hour of Australia/Lord_Howe.
func Cron(spec, zone string) Schedule[None] {
	fail := func(reason string, cause error) Schedule[None] {
		if cause != nil {
			reason += ": " + cause.Error()
		}
		return Schedule[None]{err: &FieldError{Field: "Cron", Value: spec, Reason: reason, cause: cause}}
	}
	line := strings.ToLower(strings.Join(strings.Fields(spec), " "))
	switch {
	case strings.Contains(line, "="):
		return fail("must not contain a time zone: it is the second argument", nil)
	case strings.HasPrefix(line, "@every"):
		return fail("must not be an interval: use Every", nil)
	}
	parsed, err := cron.ParseStandard(line)
	if err != nil {
		return fail("must be a crontab line of five fields or a descriptor", err)
	}
	fields := parsed.(*cron.SpecSchedule) // all but @every are
	if zone == "Local" {
		return fail("must have the name of a time zone such as Europe/Berlin: Local is another one on another machine", nil)
	}
	location, err := time.LoadLocation(zone)
	if err != nil {
		return fail(fmt.Sprintf("must have the name of a time zone that this machine knows, not %q", sanitize(zone, 64)), err)
	}
	c := &cronSlots{fields: fields, zone: location, hourly: fields.Hour&everyHour == everyHour}
	if c.nextReading(time.Unix(0, 0).UTC()).IsZero() {
		return fail("must have a day that exists", nil)
	}
	return Schedule[None]{
		text: "cron " + canonical(fields) + " " + location.String(),
		zone: location,
		next: c.next,
	}
}

// cronSlots finds the slots of a crontab line. robfig/cron reads the line and
// steps through its times on clocks without daylight saving; with it, that
// library leaves out what lies in the gap and makes a daily job of the hour
// that comes twice run twice.
type cronSlots struct {
	fields *cron.SpecSchedule
	zone   *time.Location
	hourly bool // it follows the time that passes
}

const everyHour = 1<<24 - 1

// next is the first slot later than after.
func (c *cronSlots) next(after time.Time) time.Time {
	if c.hourly {
		return c.nextPassing(after)
	}
	// Whatever the clock has read before, its slot is over: so is one that it
	// reads a second time.
	for reading := c.nextReading(clock(after.In(c.zone))); ; reading = c.nextReading(reading) {
		if slot := c.reached(reading); slot.After(after) {
			return slot
		}
	}
}

// nextPassing looks at one stretch without a change of the clocks after the
// other.
func (c *cronSlots) nextPassing(after time.Time) time.Time {
	at := after.In(c.zone)
	reading := clock(at)
	for {
		_, offset := at.Zone()
		_, end := at.ZoneBounds()
		slot := c.nextReading(reading).Add(-time.Duration(offset) * time.Second).In(c.zone)
		if end.IsZero() || slot.Before(end) {
			return slot
		}
		at, reading = end, clock(end).Add(-1) // the change itself may be a slot
	}
}

// reached is when the clocks of the zone first read what is given, or more.
func (c *cronSlots) reached(reading time.Time) time.Time {
	at := reading.Add(-26 * time.Hour).In(c.zone) // nowhere is it that late yet
	for {
		_, offset := at.Zone()
		start, end := at.ZoneBounds()
		slot := reading.Add(-time.Duration(offset) * time.Second).In(c.zone)
		switch {
		case !start.IsZero() && slot.Before(start):
			return start // the clocks went past it
		case end.IsZero() || slot.Before(end):
			return slot
		}
		at = end
	}
}

// clock is what a clock reads at t, as if it were UTC.
func clock(t time.Time) time.Time {
	_, offset := t.Zone()
	return t.Add(time.Duration(offset) * time.Second).UTC()
}

// nextReading is the first reading later than after that fits the line, or
// zero if none ever does.
func (c *cronSlots) nextReading(after time.Time) time.Time {
	// The library gives up after five years; from 2096 to 2104 there is no 29
	// February.
	for range 3 {
		if next := c.fields.Next(after); !next.IsZero() {
			return next
		}
		after = time.Date(after.Year()+5, 1, 1, 0, 0, 0, -1, time.UTC)
	}
	return time.Time{}
}

// canonical writes what a line means, so that lines that mean the same are the
// same schedule.
func canonical(s *cron.SpecSchedule) string {
	const star = 1 << 63 // the library's mark; it matters for days only
	field := func(set uint64, low, high int, day bool) string {
		if set&star != 0 {
			return "*"
		}
		if !day && bits.OnesCount64(set) == high-low+1 {
			return "*"
		}
		return ranges(set, low, high)
	}
	return strings.Join([]string{
		field(s.Minute, 0, 59, false), field(s.Hour, 0, 23, false), field(s.Dom, 1, 31, true), field(s.Month, 1, 12, false), field(s.Dow, 0, 6, true),
	}, " ")
}

// ranges writes a set of numbers as a step over all of them, or as a list of
// numbers and ranges.
func ranges(set uint64, low, high int) string {
	var list []string
	for n := low; n <= high; n++ {
		if set&(1<<n) == 0 {
			continue
		}
		last := n
		for last < high && set&(1<<(last+1)) != 0 {
			last++
		}
		if text := strconv.Itoa(n); last > n {
			list = append(list, text+"-"+strconv.Itoa(last))
		} else {
			list = append(list, text)
		}
		n = last
	}
	for step := 2; step <= (high-low)/2; step++ {
		var all uint64
		for n := low; n <= high; n += step {
			all |= 1 << n
		}
		if all == set {
			return "*/" + strconv.Itoa(step)
		}
	}
	return strings.Join(list, ",")
}
