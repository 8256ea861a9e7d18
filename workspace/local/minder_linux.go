package local

import "syscall"

// withParent has a program killed with the thread that starts it, for a minder that is killed itself.
func withParent(attributes *syscall.SysProcAttr) { attributes.Pdeathsig = syscall.SIGTERM }
