package pgserver

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// NotFoundError says that this machine has no PostgreSQL server programs that
// can be used, and what to do about it.
type NotFoundError struct {
	Major    int      // the major version that existing data need, 0 when any would do
	Looked   []string // the places that were looked at
	Rejected []string // installations that were found but cannot be used, with the reason
	Install  string   // the command that installs PostgreSQL on this system
}

func (e *NotFoundError) Error() string {
	var b strings.Builder
	if e.Major != 0 {
		fmt.Fprintf(&b, "no PostgreSQL %d server programs were found on this machine, and the data directory needs that version", e.Major)
	} else {
		fmt.Fprintf(&b, "no PostgreSQL server programs (version %d or newer) were found on this machine", minMajor)
	}
	b.WriteString("\nlooked for initdb and postgres in:\n")
	for _, place := range e.Looked {
		fmt.Fprintf(&b, "  %s\n", place)
	}
	if len(e.Rejected) > 0 {
		b.WriteString("found, but not usable:\n")
		for _, reason := range e.Rejected {
			fmt.Fprintf(&b, "  %s\n", reason)
		}
	}
	fmt.Fprintf(&b, "to install it:\n  %s\n", e.Install)
	b.WriteString("or set BEARMQ_PG_BIN to the directory that holds initdb and postgres,\n")
	b.WriteString("or set DATABASE_URL to a running server, for example postgres://user:password@host:5432/database")
	return b.String()
}

// installCommand is the command that installs PostgreSQL on this system.
// scripts/postgres runs the same ones; a test compares them.
func installCommand() string {
	if runtime.GOOS == "darwin" {
		return "brew install postgresql"
	}
	release, err := os.ReadFile("/etc/os-release")
	if err != nil {
		release = nil // not Linux, or a very small one: the general advice
	}
	return installCommandFor(string(release), os.Geteuid() == 0)
}

func installCommandFor(osRelease string, root bool) string {
	fields := parseOSRelease(osRelease)
	ids := append([]string{fields["ID"]}, strings.Fields(fields["ID_LIKE"])...)
	is := func(id string) bool { return slices.Contains(ids, id) }
	sudo := "sudo "
	if root {
		sudo = ""
	}
	switch {
	case is("debian"), is("ubuntu"):
		return sudo + "apt-get install -y postgresql"
	case fields["ID"] != "fedora" && is("rhel") && majorOf(fields["VERSION_ID"]) < 10:
		// The default of RHEL 8 and 9 is PostgreSQL 10 and 13.
		return sudo + "dnf module enable -y postgresql:16 && " + sudo + "dnf install -y postgresql-server"
	case is("fedora"), is("rhel"):
		return sudo + "dnf install -y postgresql-server"
	case is("alpine"):
		return sudo + "apk add postgresql"
	case is("arch"):
		return sudo + "pacman -S --noconfirm postgresql"
	case is("suse"), is("opensuse"):
		return sudo + "zypper install -y postgresql-server"
	}
	return fmt.Sprintf("install the PostgreSQL server, version %d or newer, with this system's package manager", minMajor)
}

func parseOSRelease(text string) map[string]string {
	fields := map[string]string{}
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		if name, value, ok := strings.Cut(lines.Text(), "="); ok {
			fields[strings.TrimSpace(name)] = strings.Trim(strings.TrimSpace(value), `"'`)
		}
	}
	return fields
}

// majorOf reads the 9 of "9.4"; a version that cannot be read counts as new.
func majorOf(version string) int {
	major, _, _ := strings.Cut(version, ".")
	n, err := strconv.Atoi(major)
	if err != nil {
		return 1 << 16
	}
	return n
}
