//go:build !linux

package doctor

import "context"

// lookAtInotify does nothing: Docker runs in a virtual machine with a separate kernel.
func lookAtInotify(context.Context, machine) Finding { return Finding{} }
