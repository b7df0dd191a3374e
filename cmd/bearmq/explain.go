package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// explain is the text of an error for somebody who called the program: what
// failed, and what to do about it.
func explain(err error) string {
	text := strings.TrimPrefix(err.Error(), "bearmq: ")
	var parse *pgconn.ParseConfigError
	var connect *pgconn.ConnectError
	var server *pgconn.PgError
	switch {
	case errors.As(err, &parse):
		return "the database's URL cannot be read: " + firstLine(text) + "\nIt looks like postgres://user:password@host:5432/name."
	case errors.As(err, &connect):
		advice := "Is the server running, and is the URL right (--database, or else DATABASE_URL)?"
		if errors.As(err, &server) {
			advice = "The server answered, but refused: check the user, the password and the database's name in the URL."
		}
		at := connect.Config
		return fmt.Sprintf("cannot connect to the database %q on %s:%d as %q: %v\n%s", at.Database, at.Host, at.Port, at.User, rootCause(err), advice)
	case errors.As(err, &server):
		return text + advice(server.Code)
	}
	return text
}

// advice is what to do about an SQLSTATE.
func advice(code string) string {
	switch code {
	case "42501":
		return "\nThe role lacks a right. To migrate, let the owner run this or GRANT CREATE ON DATABASE … TO the role (bearmq migrate sql prints the script); to read, GRANT USAGE ON SCHEMA … and SELECT on its tables."
	case "55P03":
		return "\nSomebody uses the schema: stop workers and orchestrators, and try again."
	case "25006":
		return "\nThis server is read-only: connect to the primary."
	}
	return ""
}

// rootCause is the innermost error, whose text has no wrapping.
func rootCause(err error) error {
	for {
		switch wrapped := err.(type) {
		case interface{ Unwrap() error }:
			if inner := wrapped.Unwrap(); inner != nil {
				err = inner
				continue
			}
		case interface{ Unwrap() []error }:
			if inner := wrapped.Unwrap(); len(inner) > 0 {
				err = inner[len(inner)-1]
				continue
			}
		}
		return err
	}
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}
