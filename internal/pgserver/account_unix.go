//go:build unix

package pgserver

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"
)

// account is who runs PostgreSQL: ourselves (the zero value), or an unprivileged
// user when we are root, because PostgreSQL refuses to run as root.
type account struct {
	name string
	cred *syscall.Credential
}

// unprivileged are the users that root runs PostgreSQL as, in order of preference.
var unprivileged = []string{"postgres", "_postgres", "nobody"}

// serverAccount picks the account for a new cluster.
func serverAccount() (account, error) {
	if os.Geteuid() != 0 {
		return account{}, nil
	}
	for _, name := range unprivileged {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, errUID := strconv.ParseUint(u.Uid, 10, 32)
		gid, errGID := strconv.ParseUint(u.Gid, 10, 32)
		if errUID != nil || errGID != nil || uid == 0 {
			continue
		}
		return account{name: name, cred: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}, nil
	}
	return account{}, errors.New("PostgreSQL does not run as root, and this system has neither a user postgres nor a user nobody: start this as an ordinary user, or set DATABASE_URL")
}

// ownerAccount is the account for an existing cluster: root runs it as the user
// that owns it, so that this user can open it again.
func ownerAccount(dir string) (account, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return account{}, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 {
		return account{}, nil
	}
	if stat.Uid == 0 {
		return account{}, fmt.Errorf("%s belongs to root, and PostgreSQL does not run as root: chown -R postgres %s", dir, dir)
	}
	return account{
		name: "number " + strconv.Itoa(int(stat.Uid)),
		cred: &syscall.Credential{Uid: stat.Uid, Gid: stat.Gid},
	}, nil
}

// apply makes cmd run as the account.
func (a account) apply(cmd *exec.Cmd) {
	if a.cred == nil {
		return
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Credential = a.cred
}

// own gives a file or directory to the account.
func (a account) own(path string) error {
	if a.cred == nil {
		return nil
	}
	return os.Chown(path, int(a.cred.Uid), int(a.cred.Gid))
}

// canUse says whether the account may enter dir and create files there. It asks
// the kernel by trying, because modes of parents are not the whole truth (ACLs).
func (a account) canUse(dir string) bool {
	cmd := exec.Command("/bin/sh", "-c", `cd -- "$1" && [ -w . ]`, "sh", dir)
	cmd.Dir = "/"
	a.apply(cmd)
	return cmd.Run() == nil
}

// suffix names the account in a message.
func (a account) suffix() string {
	if a.cred == nil {
		return ""
	}
	return " as user " + a.name
}
