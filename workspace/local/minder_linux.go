package local

import "syscall"

// withParent makes the kernel stop the program when the thread that started it ends, in case the minder is killed.
func withParent(attributes *syscall.SysProcAttr) { attributes.Pdeathsig = syscall.SIGTERM }
