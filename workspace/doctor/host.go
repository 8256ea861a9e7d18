package doctor

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"example.com/invoices/workspace/docker"
	"example.com/invoices/workspace/process"
)

func lookAtDisk(_ context.Context, m machine) Finding {
	const gigabyte = 1e9
	var s unix.Statfs_t
	if err := unix.Statfs(m.Root, &s); err != nil {
		return Finding{Note, "disk", err.Error(), ""}
	}
	free := float64(s.Bavail) * float64(s.Bsize) / gigabyte
	f := Finding{Fine, "disk", fmt.Sprintf("%.0f GB free", free), ""}
	if free < 5 {
		f.Level, f.Do = Note, "the images and the cluster need 3 GB, and building everything 12 GB: "+
			"docker system prune, go clean -cache"
	}
	return f
}

// lookAtKubernetesTools looks for the tools. Deploying compiles missing ones.
func lookAtKubernetesTools(context.Context, machine) Finding {
	var there, missing []string
	for _, tool := range []string{"ctlptl", "kind", "kubectl", "tilt"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing = append(missing, tool)
		} else {
			there = append(there, tool)
		}
	}
	f := Finding{Fine, "tools", strings.Join(there, ", "), ""}
	if len(missing) > 0 {
		f.Level, f.Found, f.Do = Note, "missing: "+strings.Join(missing, ", "), "./deploy.sh compiles them once"
	}
	return f
}

// lookAtEnvironment prints the commands to use ctlptl and tilt by hand, with the variables that this machine needs.
func lookAtEnvironment(ctx context.Context, m machine) Finding {
	if _, err := m.cluster.State(ctx); err != nil {
		return Finding{Bad, "by hand", err.Error(), ""}
	}
	set := slices.Clone(m.cluster.Environment)
	if version, err := docker.Version(ctx, "{{.Server.APIVersion}}"); err == nil {
		set = append(set, "DOCKER_API_VERSION="+version)
	}
	slices.Sort(set)
	var lines []string
	for _, variable := range set {
		name, value, _ := strings.Cut(variable, "=")
		lines = append(lines, "export "+name+"="+process.Quote(value))
	}
	lines = append(lines, "ctlptl apply -f ctlptl.yaml", "tilt up --context kind-"+m.Services.Product)
	return Finding{Fine, "by hand", "to use ctlptl and tilt without ./deploy.sh, once you have the tools and images:",
		strings.Join(lines, "\n")}
}
