package bench

import (
	"context"
	"os"
	"runtime"
	"strings"

	"github.com/jackc/pgx/v5"
)

// machine is what the figures were measured on.
type machine struct {
	Cores      int               `json:"cores"`
	CPU        string            `json:"cpu,omitempty"`
	System     string            `json:"system"`
	Go         string            `json:"go"`
	PostgreSQL string            `json:"postgresql"`
	Server     string            `json:"server"`
	Settings   map[string]string `json:"settings"`
}

func (b *bench) machine(ctx context.Context) (machine, error) {
	m := machine{Cores: runtime.NumCPU(), CPU: cpu(), System: runtime.GOOS + "/" + runtime.GOARCH, Go: runtime.Version(),
		Server: "private, on the same machine", Settings: map[string]string{}}
	if !b.db.server.Private() {
		m.Server = "of --database or DATABASE_URL"
	}
	conn, err := b.db.connect(ctx)
	if err != nil {
		return m, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	m.PostgreSQL = conn.PgConn().ParameterStatus("server_version")
	rows, err := conn.Query(ctx, sql("settings"))
	if err != nil {
		return m, err
	}
	var name, value string
	_, err = pgx.ForEachRow(rows, []any{&name, &value}, func() error { m.Settings[name] = value; return nil })
	return m, err
}

// cpu is the processor's name, where the system tells it in a file.
func cpu() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
