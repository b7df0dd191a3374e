// Package pgbouncer has tests only: the library behind a pgbouncer, which `make
// test-pgbouncer` installs and runs. They have a build tag of their own,
// pgbouncer, because they fail where it is missing.
package pgbouncer
