package cluster

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
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
	for _, folder := range c.folders(node) {
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

// folders returns the folders of this machine that the node may see.
func (c *Cluster) folders(node *docker.Container) []string {
	folders := []string{c.Live}
	for _, bind := range node.HostConfig.Binds {
		if source, _, ours := strings.Cut(bind, ":"+sharedFolder+":"); ours && source != c.Live {
			folders = append(folders, source)
		}
	}
	return folders
}

// TiltUp is a running `tilt up`. It holds a lock on the file "lock" in the shared folder, which contains this as JSON.
type TiltUp struct {
	PID      int
	Checkout string
}

func (t *TiltUp) String() string {
	if t.PID == 0 { // it has not written it yet
		return "`tilt up`"
	}
	return fmt.Sprintf("`tilt up` of %s (process %d)", t.Checkout, t.PID)
}

// of reports whether it was started in the checkout at root.
func (t *TiltUp) of(root string) bool {
	a, errA := os.Stat(t.Checkout)
	b, errB := os.Stat(root)
	return errA == nil && errB == nil && os.SameFile(a, b)
}

// TiltUp returns the `tilt up` that is running on the cluster, or nil.
func (c *Cluster) TiltUp(state State) (*TiltUp, error) {
	if state.Node == nil || c.Live == "" {
		return nil, nil
	}
	for _, folder := range c.folders(state.Node) {
		content, held, err := process.Held(filepath.Join(folder, "lock"))
		if errors.Is(err, fs.ErrPermission) { // of another user, whom FindLive does not share a folder with either
			continue
		} else if err != nil {
			return nil, err
		}
		if held {
			var running TiltUp
			_ = json.Unmarshal(content, &running) // it may not have written it yet
			return &running, nil
		}
	}
	return nil, nil
}

// refuseSecond returns an error if the cluster is in use by a ./deploy.sh, or by a `tilt up` of another checkout: each
// would replace what the other runs.
func (c *Cluster) refuseSecond(state State) error {
	if _, held, err := process.Held(c.LockFile()); err != nil || held {
		return cmp.Or(err, fmt.Errorf("%s is running: start `tilt up` when it is done", c.Deploy))
	}
	running, err := c.TiltUp(state)
	if err != nil || running == nil || running.of(c.paths.Root) {
		return err
	}
	return fmt.Errorf("%v is running on cluster %s: stop it with Ctrl-C, "+
		"or use another cluster: CLUSTER_NAME=other ./deploy.sh", running, c.Name)
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

// makeLive creates the folder that tilt up shares with the node, if there is one.
func (c *Cluster) makeLive() error {
	if c.Live == "" {
		return nil
	}
	return makeShared(c.Live)
}

// makeShared creates a folder that pods, which run as other users, can read, regardless of the user's umask.
func makeShared(folder string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	return os.Chmod(folder, 0o755)
}
