//go:build !linux

package local

import "syscall"

// withParent does nothing: only Linux can signal a program when its parent is killed.
func withParent(*syscall.SysProcAttr) {}
