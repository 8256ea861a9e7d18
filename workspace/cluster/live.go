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

// ErrNotShared means that the node does not see files in the folder that tilt up shares with it.
var ErrNotShared = errors.New("the node does not see the folder that tilt up shares with it")

// FindLive sets c.Live to the folder of this machine that the running node sees: this clone's, or the one that the
// cluster was created with, from another clone or before this one was moved. A folder that was removed and recreated
// is not visible until the node restarts. The mounts that Docker reports are not sufficient: Docker may run in a
// virtual machine, or the clone may have been moved.
func (c *Cluster) FindLive(ctx context.Context, node *docker.Container) error {
	if !slices.ContainsFunc(node.Mounts, func(m struct{ Destination string }) bool {
		return m.Destination == sharedFolder
	}) {
		return fmt.Errorf("this cluster's node has no folder shared with `tilt up`: "+
			"%s --force recreates the cluster, and deletes its data", c.Deploy)
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

// sees reports whether the node sees files in a folder.
func (c *Cluster) sees(ctx context.Context, folder string) (bool, error) {
	if err := makeShared(folder); err != nil {
		return false, nil // a path on another machine, or of another user
	}
	mark, err := os.CreateTemp(folder, ".seen-")
	if err != nil {
		return false, nil // likewise
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

// makeShared creates a folder that pods, which run as other users, can read, regardless of the user's umask.
func makeShared(folder string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	return os.Chmod(folder, 0o755)
}
