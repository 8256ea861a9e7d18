package images

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"example.com/invoices/workspace/compile"
	"example.com/invoices/workspace/process"
)

// minikube builds minikube's base image: the node image plus the files and packages that minikube expects, from its
// Go module and from Debian.
func (b builder) minikube(ctx context.Context, image image) error {
	if err := b.compiler.Programs(ctx, compile.Crictl, filepath.Join(b.paths.Cache, minikube), "crictl"); err != nil {
		return err
	}
	inputs, err := b.inputs(ctx, image)
	if err != nil {
		return err
	}
	return b.console.Step(ctx, image.tag+": on top of "+b.paths.Image(node), "minikube-image",
		func(ctx context.Context, step *process.Step) error {
			// Not in root's cache: apt downloads as another user, who cannot access root's folders.
			folder, err := os.MkdirTemp("", "minikube-image-")
			if err != nil {
				return err
			}
			defer os.RemoveAll(folder)
			if err := os.Chmod(folder, 0o755); err != nil {
				return err
			}
			if err := b.minikubeFiles(ctx, folder); err != nil {
				return err
			}
			if err := b.minikubePackages(ctx, step, folder); err != nil {
				return err
			}
			return step.Run(process.Command(ctx, "docker", "build",
				"--label", b.paths.InputsLabel()+"="+inputs, "--tag", image.tag, folder))
		})
}

// minikubeFiles copies the files that need not be downloaded or built.
func (b builder) minikubeFiles(ctx context.Context, folder string) error {
	module, err := compile.Minikube.Files(ctx, b.paths, "k8s.io/minikube")
	if err != nil {
		return err
	}
	module = filepath.Join(module, "deploy/kicbase")
	files := []string{
		filepath.Join(b.paths.Root, "offline/minikube/Dockerfile"),
		filepath.Join(b.paths.Root, "offline/minikube/mounted-cgroups"),
		filepath.Join(b.paths.Cache, minikube, "crictl"),
		filepath.Join(module, "entrypoint"),
		filepath.Join(module, "containerd.toml"),
	}
	for _, pattern := range []string{"automount/*", "scheduled-stop/*"} {
		found, err := filepath.Glob(filepath.Join(module, pattern))
		if err != nil {
			return err
		}
		files = append(files, found...)
	}
	for _, file := range files {
		if err := copyFile(file, filepath.Join(folder, filepath.Base(file)), 0o755); err != nil {
			return err
		}
	}
	version, err := compile.Minikube.Version(ctx, b.paths, "k8s.io/minikube")
	if err != nil {
		return err
	}
	content := fmt.Appendf(nil, "{\"minikube_version\":%q}\n", version)
	return os.WriteFile(filepath.Join(folder, "version.json"), content, 0o644)
}

// minikubePackages downloads the packages that the node image lacks.
func (b builder) minikubePackages(ctx context.Context, step *process.Step, folder string) error {
	if err := os.MkdirAll(filepath.Join(folder, "packages/partial"), 0o755); err != nil {
		return err
	}
	installed, err := step.Output(process.Command(ctx, "docker", "run", "--rm", "--network", "none",
		"--entrypoint", "cat", b.paths.Image(node), "/var/lib/dpkg/status"))
	if err != nil {
		return err
	}
	status := filepath.Join(folder, "status")
	if err := os.WriteFile(status, []byte(installed+"\n"), 0o644); err != nil {
		return err
	}
	download := func() error {
		return step.Run(process.Command(ctx, "apt-get", "install", "--download-only", "--yes", "--no-install-recommends",
			"-o", "Dir::State::status="+status, "-o", "Dir::Cache::archives="+filepath.Join(folder, "packages"),
			"openssh-server", "sudo"))
	}
	if download() == nil {
		return nil
	}
	// On a new machine the package lists are missing or outdated.
	if err := step.Run(process.Command(ctx, "apt-get", "update")); err != nil {
		return err
	}
	return download()
}
