// Package model holds the engine against a model of itself: three actors do at
// random what workers, producers and orchestrators do, one step at a time on a
// real PostgreSQL, with transactions held open across steps, and after each step
// the database must say what a model in memory says.
//
// Time moves by changing rows, and nothing runs beside the test, so a failure can
// be repeated, and rapid makes a short one of it. For what only happens when
// things really run at once there is internal/stress.
//
// It is a module of its own for the sake of its dependency.
package model
