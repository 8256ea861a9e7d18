package images

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sys/unix"

	"example.com/invoices/workspace/compile"
	"example.com/invoices/workspace/debian"
	"example.com/invoices/workspace/docker"
	"example.com/invoices/workspace/process"
	"example.com/invoices/workspace/root"
)

const (
	node     = "node"
	minikube = "minikube"
)

// inputs returns the hashes of an image's build inputs. minikube's node image is based on kind's.
func (i *Images) inputs(ctx context.Context, image image) (string, error) {
	name := image.folder()
	files := []string{"offline/" + name, "offline/debian.sh"}
	modules := []compile.Module{}
	if i.isProgram(image) {
		modules = append(modules, compile.Tools(name))
		files = []string{"workspace/images/build.go"}
	}
	switch name {
	case "postgres-replicated":
		files = append(files, "offline/postgres")
	case node:
		files = append(files, "workspace/images/node.go")
		modules = append(modules, compile.Cluster)
	case minikube:
		files = append(files, "workspace/images/minikube.go", "offline/node", "workspace/images/node.go")
		modules = append(modules, compile.Minikube, compile.Crictl, compile.Cluster)
	}
	hash, err := i.paths.Hash(files...)
	if errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("%s cannot be built: %w", image.tag, err)
	}
	hashes := []string{hash}
	for _, module := range modules {
		inputs, failed := module.Inputs(ctx, i.paths)
		hashes, err = append(hashes, inputs), errors.Join(err, failed)
	}
	return strings.Join(hashes, "-"), err
}

// isProgram reports whether an image consists of the programs in the tool block of tools/NAME/go.mod.
func (i *Images) isProgram(image image) bool {
	return !i.exists("offline", image.folder(), "debian") && i.exists("tools", image.folder(), "go.mod")
}

func (i *Images) exists(path ...string) bool {
	_, err := os.Stat(filepath.Join(append([]string{i.paths.Root}, path...)...))
	return err == nil
}

// toBuild returns the images that are missing or were made in none of these ways. If minikube's node image is one of
// them, kind's, which it is based on, comes first unless it was built.
func (i *Images) toBuild(ctx context.Context, ways way) ([]image, error) {
	missing, err := i.missing(ctx, i.all(), ways)
	if err != nil || !slices.ContainsFunc(missing, onTop) {
		return missing, err
	}
	nodes := slices.DeleteFunc(of(i.list, "kind"), func(image image) bool { return image.folder() != node })
	first, err := i.missing(ctx, nodes, built)
	return append(first, missing...), err
}

// onTop reports whether an image is built on top of another.
func onTop(image image) bool { return image.folder() == minikube }

// build builds the images that toBuild returns. An image with the program debian in its folder in offline/ gets its
// root file system from packages, and the Dockerfile there adds its configuration. Others consist of the programs
// that their folder in tools/ pins.
func (i *Images) build(ctx context.Context, ways way) error {
	missing, err := i.toBuild(ctx, ways)
	if err != nil || len(missing) == 0 {
		return err
	}
	compiler, err := i.compiler(ctx)
	if err != nil {
		return err
	}
	lock, err := i.console.Lock(ctx, filepath.Join(i.paths.Cache, "images.lock"))
	if err != nil {
		return err
	}
	defer lock.Close()
	if missing, err = i.toBuild(ctx, ways); err != nil { // another run may have built them in the meantime
		return err
	}
	if err := debian.Need(ctx, i.console, "mmdebstrap", "mmdebstrap"); err != nil {
		return err
	}
	defer unix.Umask(unix.Umask(0o022)) // users in the image must be able to read its files, whatever our umask
	b := builder{Images: i, compiler: compiler, folder: filepath.Join(i.paths.Cache, "build")}
	if err := os.RemoveAll(b.folder); err != nil {
		return err
	}
	if err := os.MkdirAll(b.folder, 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(b.folder)
	if err := b.fromPackages(ctx, slices.DeleteFunc(slices.Clone(missing), func(image image) bool {
		return onTop(image) || i.isProgram(image)
	})); err != nil {
		return err
	}
	for _, image := range missing {
		var err error
		switch {
		case onTop(image):
			err = b.minikube(ctx, image)
		case i.isProgram(image):
			err = b.fromModule(ctx, image)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// compiler returns a compiler for the machine that Docker runs on, or an error if images cannot be built here.
func (i *Images) compiler(ctx context.Context) (compile.Compiler, error) {
	const otherwise = "pull them (workspace/run images pull), or load them from a file exported on another machine " +
		"(workspace/run images load FILE)"
	compiler := compile.Compiler{Console: i.console, Paths: i.paths, OS: "linux"}
	if _, err := exec.LookPath("apt-get"); err != nil || runtime.GOOS != "linux" {
		return compiler, errors.New("building images needs Debian: " + otherwise)
	}
	var err error
	compiler.Arch, err = docker.Version(ctx, "{{.Server.Arch}}")
	if err != nil {
		return compiler, err
	}
	if compiler.Arch != runtime.GOARCH {
		return compiler, fmt.Errorf("building images needs Docker's architecture, %s, but this machine is %s: %s",
			compiler.Arch, runtime.GOARCH, otherwise)
	}
	err = root.Require(ctx, "building images", "images", "source", "--product", i.product)
	if err != nil {
		err = fmt.Errorf("%w\nor %s", err, otherwise)
	}
	return compiler, err
}

// builder builds images in a folder, with a subfolder for each.
type builder struct {
	*Images
	compiler compile.Compiler
	folder   string
}

// recipe is a running debian program of an image.
type recipe struct {
	image  image
	output bytes.Buffer
	done   chan error
}

// fromPackages builds images. It downloads and unpacks packages while the programs are being compiled.
func (b builder) fromPackages(ctx context.Context, images []image) error {
	ctx, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait() // until nothing writes to the folder any more
	defer stop()
	var recipes []*recipe
	for _, image := range images {
		r := &recipe{image: image, done: make(chan error, 1)}
		recipes = append(recipes, r)
		running.Go(func() { r.done <- b.debian(ctx, r) })
	}
	if slices.ContainsFunc(images, func(i image) bool { return i.folder() == node }) {
		b.console.Say("installing Debian packages in the background")
		if err := b.compiler.Programs(ctx, compile.Cluster, b.programs(), nodePrograms...); err != nil {
			return err
		}
	}
	for _, r := range recipes {
		name := r.image.folder()
		err := b.console.Step(ctx, r.image.tag+": installing Debian packages", name+"-debian",
			func(_ context.Context, step *process.Step) error {
				err := <-r.done
				_, _ = step.Write(r.output.Bytes())
				return err
			})
		if err == nil && name == node {
			err = b.console.Step(ctx, r.image.tag+": installing programs", "node-programs", b.install)
		}
		if err == nil {
			err = b.importImage(ctx, r.image)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// programFolder is the folder of an image's programs in its root file system. It is on the default PATH.
const programFolder = "usr/local/bin"

// fromModule builds an image that contains nothing but static programs. It runs the only one, if there is one.
func (b builder) fromModule(ctx context.Context, image image) error {
	name := image.folder()
	folder := filepath.Join(b.rootFileSystem(name), programFolder)
	if err := b.compiler.Programs(ctx, compile.Tools(name), folder, name); err != nil {
		return err
	}
	inputs, err := b.inputs(ctx, image)
	if err != nil {
		return err
	}
	config := v1.Config{User: "65532:65532", Labels: map[string]string{b.paths.InputsLabel(): inputs}}
	if name == operator {
		config.Entrypoint, err = b.installOperator()
	} else if programs, listed := os.ReadDir(folder); listed != nil || len(programs) == 1 {
		err, config.Entrypoint = listed, []string{"/" + programFolder + "/" + programs[0].Name()}
	}
	if err != nil {
		return err
	}
	return b.console.Step(ctx, image.tag+": loading into Docker", name+"-load",
		func(ctx context.Context, step *process.Step) error { return b.loadPrograms(ctx, step, image, config) })
}

// operator is the image of CloudNativePG's operator.
const operator = "cloudnative-pg"

// installOperator puts the operator where its own image has it. It copies itself into the pods of databases, and looks
// for the program of each architecture in this folder.
func (b builder) installOperator() (entrypoint []string, err error) {
	root := b.rootFileSystem(operator)
	program := filepath.Join("operator", "manager_"+b.compiler.Arch)
	if err := os.MkdirAll(filepath.Join(root, "operator"), 0o755); err != nil {
		return nil, err
	}
	if err := os.Rename(filepath.Join(root, programFolder, "manager"), filepath.Join(root, program)); err != nil {
		return nil, err
	}
	return []string{"/manager"}, os.Symlink(program, filepath.Join(root, "manager"))
}

// loadPrograms makes a Docker image with one layer, from a root file system.
func (b builder) loadPrograms(ctx context.Context, step *process.Step, image image, config v1.Config) error {
	layer, err := (&nodeImage{}).layer(b.rootFileSystem(image.folder()))
	if err != nil {
		return err
	}
	made, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{
		Architecture: b.compiler.Arch, OS: "linux", Config: config, RootFS: v1.RootFS{Type: "layers"},
	})
	if err == nil {
		made, err = mutate.AppendLayers(made, layer)
	}
	if err != nil {
		return err
	}
	tag, err := name.NewTag(image.tag)
	if err != nil {
		return err
	}
	archive, into := io.Pipe()
	go func() { into.CloseWithError(tarball.Write(tag, made, into)) }()
	command := process.Command(ctx, "docker", "load")
	command.Stdin = archive
	err = step.Run(command)
	archive.CloseWithError(err) // stops the writer if Docker did not read everything
	return err
}

func (b builder) importImage(ctx context.Context, image image) error {
	return b.console.Step(ctx, image.tag+": importing into Docker", image.folder()+"-import",
		func(ctx context.Context, step *process.Step) error { return b.load(ctx, step, image) })
}

// programs returns the folder with the compiled programs.
func (b builder) programs() string { return filepath.Join(b.paths.Cache, node) }

// rootFileSystem returns the folder with an image's files.
func (b builder) rootFileSystem(name string) string { return filepath.Join(b.folder, name) }

func (b builder) debian(ctx context.Context, r *recipe) error {
	name := r.image.folder()
	args := []string{b.rootFileSystem(name)}
	if name == node {
		kind, err := compile.Cluster.Files(ctx, b.paths, "sigs.k8s.io/kind")
		if err != nil {
			return err
		}
		args = append(args, filepath.Join(kind, "images/base/files"))
	}
	command := process.Command(ctx, filepath.Join(b.paths.Root, "offline", name, "debian"), args...)
	fmt.Fprintln(&r.output, "$", process.Words(command.Args))
	command.Stdout, command.Stderr = &r.output, &r.output
	return command.Run()
}

// load makes a Docker image from a root file system and a Dockerfile.
func (b builder) load(ctx context.Context, step *process.Step, image image) error {
	name := image.folder()
	base := path.Dir(image.tag) + "/" + name + ":root-file-system"
	inputs, err := b.inputs(ctx, image)
	if err != nil {
		return err
	}
	replaced, err := docker.InspectImage(ctx, image.tag, "{{.Id}}")
	if err != nil {
		return err
	}
	files, into := io.Pipe()
	go func() { into.CloseWithError(writeTar(into, b.rootFileSystem(name), false)) }()
	command := process.Command(ctx, "docker", "import", "-", base)
	command.Stdin = files
	err = step.Run(command)
	files.CloseWithError(err) // stops the writer if Docker did not read everything
	if err != nil {
		return err
	}
	dockerfile, err := os.ReadFile(filepath.Join(b.paths.Root, "offline", name, "Dockerfile"))
	if err != nil {
		return err
	}
	command = process.Command(ctx, "docker", "build", "--label", b.paths.InputsLabel()+"="+inputs, "--tag", image.tag, "-")
	command.Stdin = bytes.NewReader(dockerfile)
	if err := step.Run(command); err != nil {
		return err
	}
	if err := step.Run(process.Command(ctx, "docker", "rmi", base)); err != nil {
		return err
	}
	if made, err := docker.InspectImage(ctx, image.tag, "{{.Id}}"); err != nil || replaced == "" || made == replaced {
		return err
	}
	// This fails if a cluster still uses the replaced image.
	_ = step.Run(process.Command(ctx, "docker", "rmi", replaced))
	return nil
}
