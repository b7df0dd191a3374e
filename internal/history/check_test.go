package history

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
			{Time: ms(30), Process: "c", Step: End, N: 1, Note: Failed},
			{Time: ms(100), Process: "d", Step: Start, Seq: 1, Job: 1, N: 2, Token: 6, Attempt: 2, Channel: "one", Group: "g"},
			{Time: ms(110), Process: "d", Step: End, N: 2, Note: OK},
			{Time: ms(111), Process: "d", Step: Start, Seq: 2, Job: 2, N: 3, Token: 6, Attempt: 1, Channel: "one", Group: "g"},
			{Time: ms(120), Process: "d", Step: End, N: 3, Note: OK},
			{Time: ms(121), Process: "d", Step: Start, Seq: 3, Job: 3, N: 4, Attempt: 1, Channel: "one"},
			{Time: ms(130), Process: "d", Step: End, N: 4, Note: OK},
			{Time: ms(131), Process: "d", Step: Succeeded, Job: 3},
		},
		Jobs: []Job{
			{ID: 1, Seq: 1, Strict: true, State: "c", Finished: ms(112), Attempt: 2, Run: 2},
			{ID: 2, Seq: 2, State: "c", Finished: ms(122), Attempt: 1, Run: 3},
			{ID: 3, Seq: 3, State: "c", Finished: ms(132), Attempt: 1},
		},
		Sessions: []Session{{PID: 100, Started: 2, Expire: ms(5000)}, {PID: 200, Started: 2, Expire: ms(5000)}},
		Given:    []Given{{Job: 1, At: ms(40)}},
		Effects:  []Effect{{Seq: 3, Run: 4}},
		Rules:    Rules{Attempts: 6, MaxLosses: 3},
	}
}

func TestCheckFindsNothingInAHistoryWithoutAFault(t *testing.T) {
	t.Parallel()
	found, summary := Check(wellBehaved())
	require.Empty(t, found)
	require.Equal(t, Summary{Acknowledged: 3, RolledBack: 1, Runs: 4, Reruns: 1, Failures: 1, Groups: 1, Pairs: 1, Faults: map[string]int{}}, summary)
}

// at finds the record of a step of one run, transaction or process.
func (f *Facts) at(step Step, n int64) *Record {
	return &f.History[slices.IndexFunc(f.History, func(r Record) bool { return r.Step == step && r.N == n })]
}

func (f *Facts) add(r ...Record) {
	f.History = append(f.History, r...)
	sort(f.History)
}

func TestCheckNamesTheBrokenPromise(t *testing.T) {
	t.Parallel()
	again := func(at int64) []Record { // job 2 once more
		return []Record{
			{Time: ms(at), Process: "c", Step: Start, Seq: 2, Job: 2, N: 9, Token: 9, Attempt: 1, Channel: "one", Group: "g"},
			{Time: ms(at + 10), Process: "c", Step: End, N: 9, Note: OK},
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
		{"a job is completed by a run that began after its session's end, and was given away", Outcome, func(f *Facts) {
			f.Sessions[1].Expire = ms(115)
			f.Given = append(f.Given, Given{Job: 3, At: ms(125)})
		}},
		{"a job is completed by a failed run", Outcome, func(f *Facts) { f.at(End, 3).Note = Failed }},
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
		{"a strict job's group is given away", Strict, func(f *Facts) {
			f.at(Start, 3).Time, f.at(End, 3).Time = ms(50), ms(60)
			f.add()
		}},
		{"a slot has two jobs", Slot, func(f *Facts) {
			f.Jobs = append(f.Jobs, Job{ID: 8, Seq: -60, State: "c", Run: 1, Finished: ms(50)}, Job{ID: 9, Seq: -60, State: "c", Run: 1, Finished: ms(50)})
		}},
		{"a job of a schedule has no end", Lost, func(f *Facts) { f.Jobs = append(f.Jobs, Job{ID: 8, Seq: -60}) }},
		{"a job fails for good twice", Outcome, func(f *Facts) {
			f.add(Record{Time: ms(140), Step: Expired, Job: 2}, Record{Time: ms(141), Step: Expired, Job: 2})
		}},
		{"a handler goes on after the end of its session", Trust, func(f *Facts) {
			f.Sessions[0].Expire = ms(25)
			f.at(End, 1).Time = ms(25) + notice + ms(1)
		}},
		{"a handler goes on when its process runs again", Trust, func(f *Facts) {
			f.Sessions[0].Expire = ms(25)
			f.add(Record{Time: ms(21), Process: "c", Step: Stop}, Record{Time: ms(60), Process: "c", Step: Resume})
			f.at(End, 1).Time = ms(60) + notice + ms(1)
		}},
		{"the jobs of a killed process start late", Restart, func(f *Facts) {
			f.Rules.Restart = 60 * time.Millisecond
			f.at(End, 1).Step = ""
			f.add(Record{Time: ms(35), Process: "c", Step: Kill})
		}},
		{"the jobs of a killed process start late, the machine was slow before", Restart, func(f *Facts) {
			f.Rules.Restart = 60 * time.Millisecond
			f.at(End, 1).Step = ""
			f.add(Record{Time: ms(35), Process: "c", Step: Kill}, Record{Time: ms(34), Step: Slow, N: ms(20)})
		}},
		{"a crash forgets a claim of a group", Rerun, func(f *Facts) {
			f.Given = nil
			f.add(Record{Time: ms(50), Step: Crash})
		}},
		{"a crash forgets a claim of long ago", Rerun, func(f *Facts) {
			f.Given, f.Jobs[0].Run = nil, 9
			f.at(Start, 1).Group, f.at(Start, 2).Group = "", ""
			f.add(Record{Time: ms(3000), Step: Crash}, Record{Time: ms(3001), Process: "d", Step: Start, Seq: 1, Job: 1, N: 9})
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
		"a job is its session's until somebody notices its end": func(f *Facts) { f.Sessions[1].Expire = ms(115) },
		"a delayed job has no place in the order": func(f *Facts) {
			f.at(Start, 3).Token, f.at(Start, 3).Time, f.at(End, 3).Time = 4, ms(15), ms(18)
			f.at(Intent, 1).Note += Delayed
			f.add()
		},
		"a job of a schedule was enqueued by nobody": func(f *Facts) {
			f.Jobs = append(f.Jobs, Job{ID: 8, Seq: -60, State: "c", Run: 9, Finished: ms(160)}, Job{ID: 9, Seq: -120, State: "c", Run: 10, Finished: ms(160)})
			f.add(Record{Time: ms(140), Process: "c", Step: Start, Seq: -60, Job: 8, N: 9}, Record{Time: ms(141), Process: "c", Step: End, N: 9, Note: OK},
				Record{Time: ms(142), Process: "c", Step: Start, Seq: -120, Job: 9, N: 10}, Record{Time: ms(143), Process: "c", Step: End, N: 10, Note: OK})
		},
		"a stopped process tells its handlers when it runs again": func(f *Facts) {
			f.Sessions[0].Expire = ms(25)
			f.add(Record{Time: ms(21), Process: "c", Step: Stop}, Record{Time: ms(4000), Process: "c", Step: Resume})
			f.at(End, 1).Time = ms(4001)
			f.add()
		},
		"a deaf handler cannot be told": func(f *Facts) {
			f.Sessions[0].Expire = ms(25)
			f.at(Start, 1).Note = Deaf
			f.at(End, 1).Time = ms(4000)
			f.add()
		},
		"the jobs of a killed process start in time": func(f *Facts) {
			f.Rules.Restart = 66 * time.Millisecond
			f.at(End, 1).Step = ""
			f.add(Record{Time: ms(35), Process: "c", Step: Kill})
		},
		"on a slow machine nobody knows who is dead": func(f *Facts) {
			f.Rules.Restart = 60 * time.Millisecond
			f.at(End, 1).Step = ""
			f.add(Record{Time: ms(35), Process: "c", Step: Kill}, Record{Time: ms(60), Step: Slow, N: ms(20)})
		},
		"a job that was lost twice may wait": func(f *Facts) {
			f.Rules.Restart = 60 * time.Millisecond
			f.at(End, 1).Step = ""
			f.Given[0].Losses = 2
			f.add(Record{Time: ms(35), Process: "c", Step: Kill})
		},
		"of a process that ended by itself nobody knows when": func(f *Facts) {
			f.Rules.Restart = time.Millisecond
			f.at(End, 1).Step = ""
			f.add(Record{Time: ms(35), Process: "c", Step: Kill, Note: Exit})
		},
		"a crash of the database forgets a claim without groups": func(f *Facts) {
			f.Given = nil
			f.at(Start, 1).Group, f.at(Start, 2).Group = "", ""
			f.add(Record{Time: ms(50), Step: Crash})
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

func TestCheckMeasuresRestarts(t *testing.T) {
	t.Parallel()
	f := wellBehaved()
	f.at(End, 1).Step = ""
	f.add(Record{Time: ms(35), Process: "c", Step: Kill}, Record{Time: ms(36), Process: "c", Step: Harm, Note: "SIGKILL"},
		Record{Time: ms(150), Process: "d", Step: Kill})
	found, summary := Check(f)
	require.Empty(t, found)
	require.Equal(t, []Restarted{{Process: "c", Jobs: 1, After: 65 * time.Millisecond}}, summary.Restarts)
	require.Equal(t, 1, summary.Takeovers)
	require.Equal(t, map[string]int{"SIGKILL": 1}, summary.Faults)
}
