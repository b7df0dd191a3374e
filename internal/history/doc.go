// Package history is what the processes of a stress wrote down, and the proof
// from it that a job system kept its promises.
//
// Each process appends to a file of its own what it is about to do and what it
// has done ([Journal]), with the time of the machine's monotonic clock, which
// all processes share. Afterwards [Read] brings the files into one order, the
// content of the database is added ([Facts]), and [Check] sorts all of it and
// sweeps over it. It knows nothing of how the faults were made.
package history
