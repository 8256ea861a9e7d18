package doctor

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"
)

// lookAtInotify checks that as many inotify instances are left as a node's programs and tilt up use.
func lookAtInotify(context.Context, machine) Finding {
	const needed = 48
	var descriptors []int
	defer func() {
		for _, descriptor := range descriptors {
			_ = unix.Close(descriptor)
		}
	}()
	for n := range needed {
		descriptor, err := unix.InotifyInit1(unix.IN_CLOEXEC)
		if err != nil {
			return Finding{Note, "inotify", fmt.Sprintf("only %d of %d instances are available (%v): "+
				"pods or tilt up may fail with \"too many open files\"", n, needed, err),
				"sudo sysctl fs.inotify.max_user_instances=512 fs.inotify.max_user_watches=524288"}
		}
		descriptors = append(descriptors, descriptor)
	}
	return Finding{Fine, "inotify", "enough instances are available", ""}
}
