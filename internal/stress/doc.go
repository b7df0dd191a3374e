// Package stress attacks a job system in one schema with many processes and
// faults, and afterwards proves from what they wrote down that it kept its
// promises.
//
// Producers and the coordinator are goroutines of one process; every worker
// and orchestrator is a process of its own, the same binary executed again (see
// [Child]). Each keeps a journal of what it is about to do and what it has done
// (package history). While they work, processes are killed, stopped and
// replaced, database connections are harmed, and the server is restarted, each
// kind of fault at random times of its own, drawn from the seed. When everything
// is quiet, [history.Check] judges.
//
// The ordinary tests run it for a minute, and on mutants of the engine, which it
// must find. The program of internal/chaos runs it for as long as one likes on a
// server of its own, which it harms too.
//
// It runs on Unix, for it needs signals.
package stress
