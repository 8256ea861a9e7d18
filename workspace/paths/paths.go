// Package paths defines where the workspace keeps its files.
package paths

import (
	"fmt"
	"os"
	"path/filepath"

	"example.com/invoices/workspace/services"
)

// Paths holds the absolute paths of the workspace's two folders, and the clone's services.
type Paths struct {
	Root     string // the clone, with build output in .build
	Cache    string // shared by all clones: tools, parts of images, logs
	Services services.List
}

// Find returns the paths of the clone that this program was compiled from: workspace/run puts it in .build.
func Find() (Paths, error) {
	program, err := os.Executable()
	if err != nil {
		return Paths{}, err
	}
	root := filepath.Dir(filepath.Dir(program))
	if _, err := os.Stat(filepath.Join(root, "Tiltfile")); err != nil {
		return Paths{}, fmt.Errorf("%s is not in the .build folder of a clone: start it with workspace/run", program)
	}
	list, err := services.Read(root)
	if err != nil {
		return Paths{}, err
	}
	// Not os.UserCacheDir, which differs on macOS: the documentation names this folder.
	cache := os.Getenv("XDG_CACHE_HOME")
	if !filepath.IsAbs(cache) {
		home, err := os.UserHomeDir()
		if err != nil {
			return Paths{}, err
		}
		cache = filepath.Join(home, ".cache")
	}
	return Paths{Root: root, Cache: filepath.Join(cache, list.Product), Services: list}, nil
}

// Image returns the local tag of one of the images that images.txt lists.
func (p Paths) Image(name string) string { return p.Services.Product + "/" + name + ":local" }

// InputsLabel returns the name of the label that records what an image was made from.
func (p Paths) InputsLabel() string { return p.Services.Product + ".inputs" }

// Bin returns the folder for tools.
func (p Paths) Bin() string { return filepath.Join(p.Cache, "bin") }

// Logs returns the folder for the logs of steps.
func (p Paths) Logs() string { return filepath.Join(p.Cache, "logs") }

// Build returns a path in the clone's folder for build output.
func (p Paths) Build(elements ...string) string {
	return filepath.Join(append([]string{p.Root, ".build"}, elements...)...)
}

// Program returns the path to which workspace/run compiles this program.
func (p Paths) Program() string { return p.Build("workspace") }

// GoWork returns GOWORK for commands in the folder of a module: its own go.work, never one of a parent folder.
func GoWork(module string) string {
	work, err := filepath.Abs(filepath.Join(module, "go.work"))
	if err == nil {
		_, err = os.Stat(work)
	}
	if err != nil {
		return "off"
	}
	return work
}
