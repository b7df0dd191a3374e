// Package stress attacks a job system in one schema with many processes and
// faults, and afterwards proves from what they wrote down that it kept its
// promises.
//
// Producers and the coordinator are goroutines of one process; every worker
// and orchestrator is a process of its own, the same binary executed again (see
// [Child]). Each appends to a file what it is about to do and what it has done,
// with the time of the machine's monotonic clock, which all of them share.
// While they work, processes are killed and stopped and database connections
// are cut. When everything is quiet, [Check] sorts what was written and sweeps
// over it.
//
// It runs on Unix, for it needs signals.
package stress
