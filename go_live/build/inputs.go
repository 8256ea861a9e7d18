package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
)

// inputs are the files on this machine, apart from Go's own and the module cache, from which Go builds a program.
type inputs struct {
	packages map[string][]string // the folders of the packages, with the patterns of the files that each embeds
	files    map[string]bool     // go.mod, go.work and the like, whether they exist or not
	others   []string            // files and folders that the program's pods depend on otherwise
	tested   []string            // the import paths of the packages
	output   string              // the name that go build gives the program
	program  string              // the import path of its package
}

// ask asks Go for the inputs of a program. It leaves errors in the code to the build. After an error of its own, the
// result has only the files that describe modules: a change to them may fix it.
func (p program) ask(ctx context.Context) (inputs, error) {
	in := inputs{packages: map[string][]string{}, files: map[string]bool{}, others: p.RestartOn}
	modules, err := p.askModules(&in)
	if err != nil {
		return in, err
	}
	var env struct{ GOMODCACHE string }
	output, err := p.goCommand(ctx, p.Module, "env", "-json", "GOMODCACHE")
	if err == nil {
		err = json.Unmarshal(output, &env)
	}
	if err != nil {
		return in, err
	}
	args := append([]string{"list", "-e", "-deps", "-json=Dir,ImportPath,Standard,EmbedPatterns"}, p.listFlags()...)
	output, err = p.goCommand(ctx, p.Module, append(args, p.Package)...)
	if err != nil {
		return in, err
	}
	for decoder := json.NewDecoder(bytes.NewReader(output)); ; {
		var pkg struct {
			Dir, ImportPath string
			Standard        bool
			EmbedPatterns   []string
		}
		if err := decoder.Decode(&pkg); errors.Is(err, io.EOF) {
			return in, nil
		} else if err != nil {
			return in, err
		}
		for path, folder := range modules {
			if inside, is := strings.CutPrefix(pkg.ImportPath, path+"/"); is && pkg.Dir == "" { // about to be written
				in.packages[filepath.Join(folder, inside)] = nil
			}
		}
		if pkg.Dir == "" || pkg.Standard || within(env.GOMODCACHE, pkg.Dir) {
			continue
		}
		in.packages[pkg.Dir] = pkg.EmbedPatterns
		in.program = pkg.ImportPath                           // the last one is the program's
		name, _, _ := module.SplitPathVersion(pkg.ImportPath) // go build leaves out /v2
		in.output = path.Base(name)
		if !in.vendored(pkg.Dir) {
			in.tested = append(in.tested, pkg.ImportPath)
		}
	}
}

// askModules adds the files that describe modules: of this one, those that its go.work uses, and those on this machine
// that replace others. It returns the folders of all these modules, by path.
func (p program) askModules(in *inputs) (map[string]string, error) {
	modules, local := []string{p.Module}, map[string]string{}
	work := filepath.Join(p.Module, "go.work")
	in.files[work], in.files[work+".sum"] = true, true
	if content, err := os.ReadFile(work); err == nil {
		file, err := modfile.ParseWork(work, content, nil)
		if err != nil {
			return nil, err
		}
		for _, use := range file.Use {
			modules = append(modules, join(p.Module, use.Path))
		}
		in.replaced(local, p.Module, file.Replace)
	}
	for _, module := range modules {
		in.files[filepath.Join(module, "go.mod")] = true
		in.files[filepath.Join(module, "go.sum")] = true
		in.files[filepath.Join(module, "vendor", "modules.txt")] = true
		content, err := os.ReadFile(filepath.Join(module, "go.mod"))
		if errors.Is(err, fs.ErrNotExist) {
			continue // a folder with only go.work
		} else if err != nil {
			return nil, err
		}
		file, err := modfile.Parse("go.mod", content, nil)
		if err != nil {
			return nil, err
		}
		in.replaced(local, module, file.Replace)
		if file.Module != nil {
			local[file.Module.Mod.Path] = module
		}
	}
	return local, nil
}

// replaced adds the folders that replace modules.
func (in inputs) replaced(folders map[string]string, module string, directives []*modfile.Replace) {
	for _, directive := range directives {
		if modfile.IsDirectoryPath(directive.New.Path) {
			folder := join(module, directive.New.Path)
			folders[directive.Old.Path], in.files[filepath.Join(folder, "go.mod")] = folder, true
		}
	}
}

// join returns a path in a folder, unless it is absolute.
func join(folder, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(folder, path)
}

func within(folder, path string) bool {
	relative, err := filepath.Rel(folder, path)
	return err == nil && filepath.IsLocal(relative)
}

// vendored reports whether a package belongs to another module, of which a vendor folder has a copy.
func (in inputs) vendored(folder string) bool {
	for file := range in.files {
		if filepath.Base(file) == "modules.txt" && within(filepath.Dir(file), folder) {
			return true
		}
	}
	return false
}

// has reports whether a change of the file or folder can change the program.
func (in inputs) has(path string) bool {
	if in.files[path] || filepath.Base(path) == "vendor" && in.files[filepath.Join(path, "modules.txt")] {
		return true
	}
	if slices.ContainsFunc(in.others, func(other string) bool { return restartsOn(other, path) }) {
		return true
	}
	for folder := range in.packages {
		if within(path, folder) {
			return true
		}
	}
	return len(in.readBy(path)) > 0
}

// readBy returns the folders of the packages that Go compiles from the file, or from the files in the folder.
func (in inputs) readBy(path string) (folders []string) {
	for folder, patterns := range in.packages {
		relative, err := filepath.Rel(folder, path)
		if err != nil || !filepath.IsLocal(relative) {
			continue
		}
		if relative == filepath.Base(path) && isSource(path) ||
			slices.ContainsFunc(patterns, func(pattern string) bool { return embeds(pattern, relative) }) {
			folders = append(folders, folder)
		}
	}
	return folders
}

// hasTest reports whether a change of the file changes a test of a package of the program.
func (in inputs) hasTest(path string) bool {
	folder := filepath.Dir(path)
	if _, is := in.packages[folder]; is {
		return strings.HasSuffix(path, "_test.go") && !hidden(filepath.Base(path))
	}
	for ; folder != filepath.Dir(folder); folder = filepath.Dir(folder) {
		if filepath.Base(folder) == "testdata" {
			_, is := in.packages[filepath.Dir(folder)]
			return is
		}
	}
	return false
}

// restartsOn reports whether a path is in a file or folder on which the pods depend. Editors' files in it do not count.
func restartsOn(other, path string) bool {
	name := filepath.Base(path)
	return within(other, path) && (path == other || !hidden(name) && !strings.HasSuffix(name, "~"))
}

// walkOther calls do for each such file.
func walkOther(other string, do func(path string) error) error {
	return filepath.WalkDir(other, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil || entry.IsDir() || !restartsOn(other, path) {
			return err
		}
		return do(path)
	})
}

// folders returns the folders in which files can change the program or its tests.
func (in inputs) folders() []string {
	found := map[string]bool{}
	for file := range in.files {
		found[filepath.Dir(file)] = true
	}
	roots := slices.Clone(in.others)
	for folder, patterns := range in.packages {
		found[existing(folder)] = true
		roots = append(append(roots, embedded(folder, patterns)...), filepath.Join(folder, "testdata"))
	}
	for _, root := range roots {
		found[filepath.Dir(root)] = true
		_ = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				found[path] = true
			}
			return nil
		})
	}
	return slices.Collect(maps.Keys(found))
}

// existing returns the folder, or the nearest one above it that exists.
func existing(folder string) string {
	for {
		if _, err := os.Stat(folder); err == nil || folder == filepath.Dir(folder) {
			return folder
		}
		folder = filepath.Dir(folder)
	}
}

// embedded returns the files and folders that match a package's patterns.
func embedded(folder string, patterns []string) (found []string) {
	for _, pattern := range patterns {
		// go build reports malformed patterns.
		matches, _ := filepath.Glob(filepath.Join(quoteGlob(folder), strings.TrimPrefix(pattern, "all:")))
		found = append(found, matches...)
	}
	return found
}

// quoteGlob quotes the special characters of a path.
func quoteGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// embeds reports whether a file, or a folder that contains it, matches the pattern.
func embeds(pattern, file string) bool {
	pattern = strings.TrimPrefix(pattern, "all:")
	for file = filepath.ToSlash(file); file != "."; file = filepath.ToSlash(filepath.Dir(file)) {
		if matched, err := filepath.Match(pattern, file); err == nil && matched {
			return true
		}
	}
	return false
}

// isSource reports whether Go compiles a file with this name in a package's folder.
func isSource(path string) bool {
	if hidden(filepath.Base(path)) || strings.HasSuffix(path, "_test.go") {
		return false
	}
	return filepath.Base(path) == "default.pgo" || slices.Contains([]string{
		".go", ".s", ".S", ".sx", ".syso", ".c", ".cc", ".cpp", ".cxx", ".m", ".h", ".hh", ".hpp", ".hxx",
	}, filepath.Ext(path))
}

// hidden reports whether Go ignores a file with this name, as it does editors' temporary files.
func hidden(name string) bool { return strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") }

// read returns the inputs' content, by path.
func (in inputs) read() (map[string][]byte, error) {
	contents := map[string][]byte{}
	add := func(path string) error {
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
			return nil // a file that has just been deleted, or an editor's lock
		} else if err != nil {
			return err
		}
		content, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		contents[path] = content
		return err
	}
	vendored := slices.ContainsFunc(slices.Collect(maps.Keys(in.packages)), in.vendored)
	for file := range in.files {
		if filepath.Base(file) == "modules.txt" && !vendored {
			continue // with it, Go would look for all packages there
		}
		if err := add(file); err != nil {
			return nil, err
		}
	}
	roots := []string{}
	for _, root := range in.others {
		if err := walkOther(root, add); err != nil {
			return nil, err
		}
	}
	for folder, patterns := range in.packages {
		entries, err := os.ReadDir(folder)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, entry := range entries {
			if path := filepath.Join(folder, entry.Name()); isSource(path) {
				if err := add(path); err != nil {
					return nil, err
				}
			}
		}
		roots = append(roots, embedded(folder, patterns)...)
	}
	for _, root := range roots {
		if err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			} else if err != nil || entry.IsDir() {
				return err
			}
			return add(path)
		}); err != nil {
			return nil, err
		}
	}
	return contents, nil
}

// shape returns what of a source file decides which files Go reads, and how: its imports and directives.
func shape(path string, content []byte) string {
	switch filepath.Base(path) {
	case "go.mod", "go.sum", "go.work", "go.work.sum", "modules.txt":
		return string(content)
	}
	if filepath.Ext(path) != ".go" {
		return ""
	}
	file, err := parser.ParseFile(token.NewFileSet(), path, content, parser.ImportsOnly)
	if err != nil {
		return string(content)
	}
	said := file.Name.Name
	for _, imported := range file.Imports {
		said += "\n" + imported.Path.Value
	}
	for line := range bytes.Lines(content) {
		// A directive may be in a group of variables, or after the mark of UTF-8.
		if slices.ContainsFunc([]string{"//go:embed", "//go:build", "//go:debug", "+build"}, func(directive string) bool {
			return bytes.Contains(line, []byte(directive))
		}) {
			said += "\n" + string(bytes.TrimSpace(line))
		}
	}
	return said
}

// compare returns the files that differ, and those of them because of which Go may read other files than before.
func compare(before, now map[string][]byte) (changed, reshaped []string) {
	for path, content := range before {
		after, exists := now[path]
		if exists && bytes.Equal(content, after) {
			continue
		}
		changed = append(changed, path)
		if !exists || shape(path, content) != shape(path, after) {
			reshaped = append(reshaped, path)
		}
	}
	for path := range now {
		if _, existed := before[path]; !existed {
			changed, reshaped = append(changed, path), append(reshaped, path)
		}
	}
	return changed, reshaped
}

// mirror is a separate copy of the inputs, in which no file changes during a build. Go's cache identifies a compiled
// package by the files' content at the start of the build. If a file were saved before it is compiled, the
// result would be cached for the old content, and an undo would bring it back.
//
// Each file has its whole path in the mirror, so that relative paths between modules stay valid.
type mirror struct {
	folder   string
	contents map[string][]byte
}

func (m *mirror) path(file string) string {
	return filepath.Join(m.folder, strings.TrimPrefix(file, filepath.VolumeName(file)))
}

// update makes the mirror contain just these files. It returns the changed ones, and whether Go may read other files
// than before.
func (m *mirror) update(contents map[string][]byte) (changed []string, reshaped bool, err error) {
	if _, err := os.Stat(m.folder); errors.Is(err, fs.ErrNotExist) { // at first, or because somebody has cleared the cache
		m.contents = map[string][]byte{}
	}
	changed, others := compare(m.contents, contents)
	for _, path := range changed {
		if _, exists := contents[path]; !exists {
			if err := os.Remove(m.path(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return changed, false, err
			}
			delete(m.contents, path)
			// A file may come in the place of its folder.
			for folder := filepath.Dir(m.path(path)); os.Remove(folder) == nil; folder = filepath.Dir(folder) {
				continue
			}
		}
	}
	for _, path := range changed {
		content, exists := contents[path]
		if !exists {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(m.path(path)), 0o755); err != nil {
			return changed, false, err
		}
		delete(m.contents, path) // in case that writing fails
		if err := os.WriteFile(m.path(path), content, 0o644); err != nil {
			return changed, false, err
		}
		m.contents[path] = content
	}
	return changed, len(others) > 0, nil
}

// goCommand runs a go command for the pods' platform in a folder, and returns its output.
func (p program) goCommand(ctx context.Context, folder string, args ...string) ([]byte, error) {
	command := exec.CommandContext(ctx, "go", args...)
	command.Dir = folder
	command.Env = append(os.Environ(), p.environment(folder)...)
	var stderr bytes.Buffer
	command.Stderr = &stderr
	output, err := command.Output()
	if err != nil {
		return nil, errors.Join(ctx.Err(), fmt.Errorf("go %s: %w: %s", strings.Join(args, " "), err, stderr.Bytes()))
	}
	return output, nil
}

// environment returns the variables for a go command in a folder with the program's module.
func (p program) environment(folder string) []string {
	return []string{
		"PWD=" + folder, "CGO_ENABLED=" + p.cgo(), "GOOS=linux", "GOARCH=" + p.Architecture, "GOWORK=" + workOf(folder),
	}
}
