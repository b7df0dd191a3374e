// Package pgserver starts a private PostgreSQL for a test binary, the demo or
// the bench, and makes sure that nothing of it stays behind.
//
// [Open] takes the server that DATABASE_URL names. Without one it initialises a
// cluster in a private directory and runs the machine's own PostgreSQL there,
// with the settings of a careful production: fsync, full_page_writes and
// synchronous_commit are on.
//
// The server runs in a session of its own below a small sh process, the keeper,
// which blocks on a pipe that only this process holds. However this process
// ends (Close, a panic, Ctrl-C, SIGKILL), the kernel closes that pipe; the
// keeper then stops the server and removes its directory. No signal handler
// is needed, and a Ctrl-C reaches the server only through its owner.
package pgserver
