//go:build !linux

package doctor

import "context"

// lookAtInotify has nothing to look at: Docker runs in a virtual machine of its own.
func lookAtInotify(context.Context, machine) Finding { return Finding{} }
