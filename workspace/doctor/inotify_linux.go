package doctor

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"
)

// lookAtInotify tries to get as many instances as the programs of a node and of tilt up use beside those that are
// in use already.
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
			return Finding{Note, "inotify", fmt.Sprintf("%d of %d instances could be had (%v): pods or tilt up may fail with \"too many open files\"", n, needed, err),
				"sudo sysctl fs.inotify.max_user_instances=512 fs.inotify.max_user_watches=524288"}
		}
		descriptors = append(descriptors, descriptor)
	}
	return Finding{Fine, "inotify", "there are instances enough", ""}
}
