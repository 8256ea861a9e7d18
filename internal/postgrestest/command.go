package postgrestest

import (
	"os"
	"os/exec"
	"syscall"

	"github.com/stretchr/testify/require"
)

// Folder creates a temporary folder that belongs to the account that PostgreSQL runs as: the
// test's own, unless that is root.
func Folder(t T) string {
	t.Helper()
	dir := folder(t)
	Give(t, dir)
	return dir
}

// Give makes a file or folder belong to that account.
func Give(t T, path string) {
	t.Helper()
	if os.Getuid() == 0 {
		account := unprivileged(t)
		require.NoError(t, os.Chown(path, int(account.Uid), int(account.Gid)))
	}
}

// Command returns a program that runs in folder as that account, with PostgreSQL's programs on its
// PATH.
func Command(t T, folder, name string, args ...string) *exec.Cmd {
	t.Helper()
	path := binaries(t) + string(os.PathListSeparator) + os.Getenv("PATH")
	c := exec.Command("env", append([]string{"PATH=" + path, name}, args...)...)
	c.Dir = folder
	if os.Getuid() == 0 {
		c.SysProcAttr = &syscall.SysProcAttr{Credential: unprivileged(t)}
	}
	return c
}
