// Package fault shows the fault matrix: each row is a scenario of its own that
// injects one fault, asserts what is required of it, and then what is required
// of every row:
//
//   - no acknowledged job is lost, and none runs again without a recorded loss,
//     failed attempt or hand-back;
//   - no two jobs of a group overlap while their sessions are valid, and the
//     group's tokens rise;
//   - a job has one outcome and one event that says so;
//   - the queue drains within 30 s of the fault's end;
//   - the tables fit together, and no goroutine and no connection is left.
//
// docs/fault-matrix.md is the table. A row runs by its number:
//
//	go test -run 'TestFault/12' ./internal/fault
//
// BEARMQ_FAULT_LONG=1 runs the rows at full length that are short by default.
//
// Where a row is about processes, they are processes: the test binary, executed
// again. Where it is about connections, they lead through internal/proxy.
package fault
