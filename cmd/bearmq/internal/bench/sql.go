package bench

import (
	"embed"
	"strings"
)

//go:embed sql/*.sql
var sqlFiles embed.FS

// sql is the text of a file in sql/, comments and all: the server ignores
// them, and the report prints them.
func sql(name string) string {
	text, err := sqlFiles.ReadFile("sql/" + name + ".sql")
	if err != nil {
		panic(err) // the files are embedded
	}
	return strings.TrimSpace(string(text))
}
