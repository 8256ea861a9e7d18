// Package podtest builds a service's program and runs it as in its pod: built as for the image,
// and with the memory limit of the manifest.
package podtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// Build builds services of the module at root into folder, without the race detector, which takes
// ten times the memory.
func Build(root, folder string, services ...string) error {
	args := []string{"build", "-tags=nosqlite,nomsgpack", "-o", folder + "/"}
	for _, service := range services {
		args = append(args, "./"+service)
	}
	build := exec.Command("go", args...)
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", build, err, out)
	}
	return nil
}

// Pod is the memory that processes of a service share.
type Pod struct {
	Memory  int64  // bytes
	goLimit string // GOMEMLIMIT
	group   string // folder of the control group, or "" if none can be created
}

// New reads a service's Deployment in the module at root, and creates a control group of that size
// until the test ends. The processes in it must have ended by then.
func New(t testing.TB, root, service string) *Pod {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, "k8s/base", service, "deployment.yaml"))
	require.NoError(t, err)
	var deployment struct {
		Spec struct {
			Template struct {
				Spec struct {
					Containers []struct {
						Env       []struct{ Name, Value string }
						Resources struct{ Limits struct{ Memory string } }
					}
				}
			}
		}
	}
	require.NoError(t, yaml.Unmarshal(content, &deployment))
	container := deployment.Spec.Template.Spec.Containers[0]
	mebibytes, err := strconv.ParseInt(strings.TrimSuffix(container.Resources.Limits.Memory, "Mi"), 10, 64)
	require.NoError(t, err, "a memory limit in Mi")
	p := &Pod{Memory: mebibytes << 20}
	for _, variable := range container.Env {
		if variable.Name == "GOMEMLIMIT" {
			p.goLimit = variable.Value
		}
	}
	p.group = memoryGroup(t, p.Memory)
	return p
}

// Command returns a program that runs in the pod. The caller can add to its Env.
func (p *Pod) Command(program string) *exec.Cmd {
	command := exec.Command(program)
	if p.group != "" {
		command = exec.Command("sh", "-c", `echo $$ > "$0/cgroup.procs" && exec "$1"`, p.group, program)
	}
	command.Env = []string{"GOMEMLIMIT=" + p.goLimit}
	return command
}

// memoryGroup returns the folder of a control group of that size, or "".
func memoryGroup(t testing.TB, limit int64) string {
	t.Helper()
	for _, kind := range []struct{ root, limit string }{
		{"/sys/fs/cgroup", "memory.max"}, // version 2
		{"/sys/fs/cgroup/memory", "memory.limit_in_bytes"},
	} {
		group := filepath.Join(kind.root, fmt.Sprintf("invoices-%d-%d", os.Getpid(), time.Now().UnixNano()))
		if os.Mkdir(group, 0o755) != nil {
			continue
		}
		t.Cleanup(func() { _ = os.Remove(group) })
		file, err := os.OpenFile(filepath.Join(group, kind.limit), os.O_WRONLY, 0) // created by the kernel
		if err != nil {
			continue
		}
		defer file.Close()
		if _, err := fmt.Fprint(file, limit); err == nil {
			t.Logf("in %s, with %d MiB", group, limit>>20)
			return group
		}
	}
	t.Log("no control group can be created here: no memory limit")
	return ""
}
