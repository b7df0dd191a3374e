package pgserver

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// production are the settings of a private server: those of a small machine
// whose owner does not want to lose anything. A test or a figure that was made
// with less durability would say nothing.
var production = map[string]string{
	"fsync":              "on",
	"full_page_writes":   "on",
	"synchronous_commit": "on",

	"max_connections":      "200",
	"shared_buffers":       "256MB",
	"effective_cache_size": "1GB",
	"maintenance_work_mem": "128MB",
	"max_wal_size":         "4GB",
	"min_wal_size":         "256MB",
	"checkpoint_timeout":   "10min",
	"random_page_cost":     "1.1", // solid state disks

	"cluster_name":    "bearmq",
	"log_line_prefix": "%m [%p] %q%a ",
	"log_timezone":    "UTC",
	"timezone":        "UTC",
}

// fixed are the settings that this package needs itself.
var fixed = []string{
	"config_file", "data_directory", "listen_addresses", "logging_collector",
	"log_destination", "port", "unix_socket_directories",
}

var settingName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.]*$`)

// configuration is the text of the server's configuration file.
func configuration(extra map[string]string) (string, error) {
	settings := maps.Clone(production)
	for name, value := range extra {
		name = strings.ToLower(name)
		switch {
		case !settingName.MatchString(name):
			return "", fmt.Errorf("%q is not the name of a PostgreSQL setting", name)
		case slices.Contains(fixed, name):
			return "", fmt.Errorf("the setting %s is chosen by pgserver and cannot be set", name)
		case strings.ContainsAny(value, "\r\n\x00"):
			return "", fmt.Errorf("the value of the setting %s holds a line break or a zero byte", name)
		}
		settings[name] = value
	}
	quote := strings.NewReplacer(`'`, `''`, `\`, `\\`)
	var b strings.Builder
	b.WriteString("# Written by BearMQ at every start: changes are lost. ALTER SYSTEM works.\n")
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&b, "%s = '%s'\n", name, quote.Replace(settings[name]))
	}
	return b.String(), nil
}
