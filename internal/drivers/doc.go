// Package drivers tests the SQL functions with the drivers of other languages: programs that enqueue and cancel jobs in their own
// transactions, and a worker of the library that runs them. `make test-drivers` installs what it needs.
package drivers
