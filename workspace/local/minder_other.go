//go:build !linux

package local

import "syscall"

// withParent is for Linux: other systems do not tell a program that its parent was killed.
func withParent(*syscall.SysProcAttr) {}
