//go:build unix

package stress

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// ms is a time of the hand-made histories.
func ms(n int64) int64 { return n * int64(time.Millisecond) }

// wellBehaved is a history without a fault: two jobs of a group in one
// transaction, the first of which fails once; a job by CompleteTx; and one that
// is rolled back.
func wellBehaved() *Facts {
	return &Facts{
		History: []Record{
			{Time: 1, Process: "c", Step: Spawn, N: 100},
			{Time: 1, Process: "d", Step: Spawn, N: 200},
			{Time: ms(10), Process: "p", Step: Intent, Seq: 1, N: 1, Channel: "one", Group: "g", Note: "strict"},
			{Time: ms(11), Process: "p", Step: Intent, Seq: 2, N: 1, Channel: "one", Group: "g", Note: "release"},
			{Time: ms(12), Process: "p", Step: Commit, N: 1},
			{Time: ms(13), Process: "p", Step: Intent, Seq: 3, N: 2, Channel: "one", Note: "release"},
			{Time: ms(14), Process: "p", Step: Commit, N: 2},
			{Time: ms(15), Process: "p", Step: Intent, Seq: 4, N: 3, Channel: "one", Note: "release"},
			{Time: ms(16), Process: "p", Step: Rollback, N: 3},
			{Time: ms(20), Process: "c", Step: Start, Seq: 1, Job: 1, N: 1, Token: 5, Attempt: 1, Channel: "one", Group: "g"},
			{Time: ms(30), Process: "c", Step: End, N: 1, Note: failed},
			{Time: ms(100), Process: "d", Step: Start, Seq: 1, Job: 1, N: 2, Token: 6, Attempt: 2, Channel: "one", Group: "g"},
			{Time: ms(110), Process: "d", Step: End, N: 2, Note: ok},
			{Time: ms(111), Process: "d", Step: Start, Seq: 2, Job: 2, N: 3, Token: 6, Attempt: 1, Channel: "one", Group: "g"},
			{Time: ms(120), Process: "d", Step: End, N: 3, Note: ok},
			{Time: ms(121), Process: "d", Step: Start, Seq: 3, Job: 3, N: 4, Attempt: 1, Channel: "one"},
			{Time: ms(130), Process: "d", Step: End, N: 4, Note: ok},
			{Time: ms(131), Process: "d", Step: Succeeded, Job: 3},
		},
		Jobs: []Job{
			{ID: 1, Seq: 1, Definition: "strict", State: "c", Finished: ms(112), Attempt: 2, Run: 2},
			{ID: 2, Seq: 2, Definition: "release", State: "c", Finished: ms(122), Attempt: 1, Run: 3},
			{ID: 3, Seq: 3, Definition: "release", State: "c", Finished: ms(132), Attempt: 1},
		},
		Sessions: []Session{{PID: 100, Started: 2, Expire: ms(5000)}, {PID: 200, Started: 2, Expire: ms(5000)}},
		Given:    []Given{{Job: 1, At: ms(40)}},
		Effects:  []Effect{{Seq: 3, Run: 4}},
	}
}

func TestCheckFindsNothingInAHistoryWithoutAFault(t *testing.T) {
	t.Parallel()
	found, summary := Check(wellBehaved())
	require.Empty(t, found)
	require.Equal(t, Summary{Acknowledged: 3, RolledBack: 1, Runs: 4, Reruns: 1, Failures: 1, Groups: 1, Pairs: 1}, summary)
}

// at finds the record of a step of one run, transaction or process.
func (f *Facts) at(step Step, n int64) *Record {
	return &f.History[slices.IndexFunc(f.History, func(r Record) bool { return r.Step == step && r.N == n })]
}

func (f *Facts) add(r ...Record) {
	f.History = append(f.History, r...)
	slices.SortStableFunc(f.History, func(a, b Record) int { return int(min(max(a.Time-b.Time, -1), 1)) })
}

func TestCheckNamesTheBrokenPromise(t *testing.T) {
	t.Parallel()
	again := func(at int64) []Record { // job 2 once more
		return []Record{
			{Time: ms(at), Process: "c", Step: Start, Seq: 2, Job: 2, N: 9, Token: 9, Attempt: 1, Channel: "one", Group: "g"},
			{Time: ms(at + 10), Process: "c", Step: End, N: 9, Note: ok},
		}
	}
	for _, test := range []struct {
		name  string
		class Class
		harm  func(*Facts)
	}{
		{"an acknowledged job is missing", Lost, func(f *Facts) { f.Jobs = f.Jobs[:2] }},
		{"an acknowledged job has no end", Lost, func(f *Facts) { f.Jobs[1].State = "" }},
		{"a job was rolled back and is there", Phantom, func(f *Facts) { f.at(Commit, 1).Step = Rollback }},
		{"a job was undone by a savepoint and is there", Phantom, func(f *Facts) { f.add(Record{Time: ms(11), Step: Undone, Seq: 2, N: 1}) }},
		{"a job runs that nobody enqueued", Phantom, func(f *Facts) { f.at(Start, 4).Seq = 17 }},
		{"a job is there twice", Phantom, func(f *Facts) { f.Jobs[1].Seq = 1 }},
		{"a job succeeds twice", Outcome, func(f *Facts) { f.add(Record{Time: ms(140), Step: Succeeded, Job: 3}) }},
		{"a job is completed that never ran", Outcome, func(f *Facts) { f.at(Start, 4).Job = 2 }},
		{"a job is completed by a failed run", Outcome, func(f *Facts) { f.at(End, 3).Note = failed }},
		{"a job fails for no reason", Outcome, func(f *Facts) { f.Jobs[1].State = "f" }},
		{"a job runs again without a record of it", Rerun, func(f *Facts) { f.Given = nil }},
		{"a job runs again that has succeeded", Rerun, func(f *Facts) {
			f.add(again(200)...)
			f.Given = append(f.Given, Given{Job: 2, At: ms(150)})
		}},
		{"a job runs again after its end", Stale, func(f *Facts) { f.add(again(200)...) }},
		{"the end of an earlier run is accepted", Stale, func(f *Facts) { f.Jobs[0].Run = 1 }},
		{"two jobs of a group run at once", Overlap, func(f *Facts) { f.at(End, 2).Time = ms(115) }},
		{"a job runs into the next of its group as its process never stops", Overlap, func(f *Facts) { f.at(End, 1).Step = "" }},
		{"a token falls", Token, func(f *Facts) { f.at(Start, 3).Token = 5 }},
		{"two processes have one token", Token, func(f *Facts) { f.at(Start, 2).Token = 5 }},
		{"the order within a transaction is inverted", Order, func(f *Facts) { f.at(Start, 3).Time, f.at(End, 3).Time = ms(15), ms(18) }},
		{"the order of two transactions is inverted", Order, func(f *Facts) {
			// Job 2 first: acknowledged at 12, after which job 1 is enqueued.
			f.History[3].Time, f.History[3].N = ms(9), 7
			f.add(Record{Time: ms(9), Step: Commit, N: 7})
			f.History[0].Time = 0
		}},
		{"a strict job's group is given away", Held, func(f *Facts) {
			f.at(Start, 3).Time, f.at(End, 3).Time = ms(50), ms(60)
			f.add()
		}},
		{"an effect is missing", Effects, func(f *Facts) { f.Effects = nil }},
		{"an effect is there twice", Effects, func(f *Facts) { f.Effects = append(f.Effects, f.Effects[0]) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := wellBehaved()
			test.harm(f)
			f.add()
			found, _ := Check(f)
			require.True(t, slices.ContainsFunc(found, func(v Violation) bool { return v.Class == test.class }), "%s is not among %v", test.class, found)
		})
	}
}

func TestCheckForgivesWhatAFaultExplains(t *testing.T) {
	t.Parallel()
	for name, happen := range map[string]func(*Facts){
		"a killed process runs nothing any more": func(f *Facts) {
			f.at(End, 1).Step = ""
			f.add(Record{Time: ms(35), Process: "c", Step: Kill})
		},
		"a stopped process is a zombie from the end of its session on": func(f *Facts) {
			f.at(End, 1).Time = ms(115)
			f.Sessions[0].Expire = ms(60)
			f.add()
		},
		"a delayed job has no place in the order": func(f *Facts) {
			f.at(Start, 3).Token, f.at(Start, 3).Time, f.at(End, 3).Time = 4, ms(15), ms(18)
			f.at(Intent, 1).Note += delayedMark
			f.add()
		},
		"a commit whose answer was lost may have been done": func(f *Facts) { f.at(Commit, 2).Step = Unknown },
		"or not": func(f *Facts) {
			f.at(Commit, 2).Step = Unknown
			f.at(Start, 4).Step, f.at(Succeeded, 0).Step = "", ""
			f.Jobs, f.Effects = f.Jobs[:2], nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := wellBehaved()
			happen(f)
			found, _ := Check(f)
			require.Empty(t, found)
		})
	}
}
