// Package paths says where the workspace keeps what it makes.
package paths

import (
	"fmt"
	"os"
	"path/filepath"
)

// Paths are two folders of this machine, by their absolute paths.
type Paths struct {
	Root  string // the clone. What is made from its files is in .build there
	Cache string // what is made once for all clones: tools, images' parts, logs
}

// Find finds the folders of the clone that this program was compiled from: workspace/run puts it in .build.
func Find() (Paths, error) {
	program, err := os.Executable()
	if err != nil {
		return Paths{}, err
	}
	root := filepath.Dir(filepath.Dir(program))
	if _, err := os.Stat(filepath.Join(root, "Tiltfile")); err != nil {
		return Paths{}, fmt.Errorf("%s is not in the .build of a clone: start it with workspace/run", program)
	}
	// As XDG_CACHE_HOME has it, on a Mac as well: this folder is in the documentation.
	cache := os.Getenv("XDG_CACHE_HOME")
	if !filepath.IsAbs(cache) {
		home, err := os.UserHomeDir()
		if err != nil {
			return Paths{}, err
		}
		cache = filepath.Join(home, ".cache")
	}
	return Paths{Root: root, Cache: filepath.Join(cache, "invoices")}, nil
}

// Bin is the folder of the tools.
func (p Paths) Bin() string { return filepath.Join(p.Cache, "bin") }

// Logs is the folder of the steps' logs.
func (p Paths) Logs() string { return filepath.Join(p.Cache, "logs") }

// Build is a path in the clone's own folder for what is made from its files.
func (p Paths) Build(elements ...string) string {
	return filepath.Join(append([]string{p.Root, ".build"}, elements...)...)
}

// Program is where workspace/run puts this program.
func (p Paths) Program() string { return p.Build("workspace") }
