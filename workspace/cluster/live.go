package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"example.com/invoices/workspace/docker"
	"example.com/invoices/workspace/process"
)

const sharedFolder = "/live" // in the node

// ErrNotShared says that what is put into the folder that tilt up shares with the node is not seen there.
var ErrNotShared = errors.New("the node does not see the folder that tilt up shares with it")

// FindLive settles which folder of this machine the running node sees: this clone's, or the one that the cluster
// was made with, from another clone or when this one was elsewhere. A folder that was removed and made anew is
// another one, which the node does not see until it starts again. What Docker says about it is not enough: it may
// run in a virtual machine, or the clone may have been moved.
func (c *Cluster) FindLive(ctx context.Context, node *docker.Container) error {
	if !slices.ContainsFunc(node.Mounts, func(m struct{ Destination string }) bool { return m.Destination == sharedFolder }) {
		return fmt.Errorf("this cluster is older than the folder that `tilt up` shares with its node: %s --force makes it anew, and loses the data", c.Deploy)
	}
	folders := []string{c.Live}
	for _, bind := range node.HostConfig.Binds {
		if source, _, ours := strings.Cut(bind, ":"+sharedFolder+":"); ours && source != c.Live {
			folders = append(folders, source)
		}
	}
	for _, folder := range folders {
		seen, err := c.sees(ctx, folder)
		if err != nil {
			return err
		}
		if seen {
			c.Live = folder
			return nil
		}
	}
	return ErrNotShared
}

// sees tells whether the node sees what is put into a folder.
func (c *Cluster) sees(ctx context.Context, folder string) (bool, error) {
	if err := makeShared(folder); err != nil {
		return false, nil // it is a path of another machine, or another user's
	}
	mark, err := os.CreateTemp(folder, ".seen-")
	if err != nil {
		return false, nil // the same
	}
	defer os.Remove(mark.Name())
	if err := mark.Close(); err != nil {
		return false, err
	}
	said, err := process.Output(process.Command(ctx, "docker", "exec", c.Node, "ls", "-A", sharedFolder))
	if err != nil {
		return false, err
	}
	return slices.Contains(strings.Fields(said), filepath.Base(mark.Name())), nil
}

// makeShared makes a folder that the pods may look into, whatever the user's umask: they are other users.
func makeShared(folder string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	return os.Chmod(folder, 0o755)
}
