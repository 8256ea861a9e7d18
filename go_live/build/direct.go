package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/cobra"
)

// Most saves change only what is inside of files. For these, go build's own work takes as long as its compiler and
// linker do: it finds out again which packages there are, and compiles whatever imports a changed package, one after
// the other. So each go build is recorded, and such a save just runs the same commands again, without go build.
//
// The program is the one that go build would make:
//
//   - What decides about the commands is as it was: the set of files, their imports, constraints and directives (see
//     shape), and Go's settings. Otherwise, go build runs.
//   - Every package with a changed file, source or embedded, is compiled from the copy that go build would read, too.
//     All that the compiler reads of other packages is their export data. So a package that imports a changed one is
//     compiled only if this has changed. The linker verifies that: each compiled package names the checksums of the
//     export data that it was compiled with, and the linker refuses others.
//   - Nothing is written to Go's cache.
//   - If anything fails, go build runs, and says what is wrong.

// command is one that go build has run: a compilation or a link.
type command struct {
	Path      string   // the import path of the package
	Args      []string // with the tool itself
	Dir       string
	Env       []string // the variables that Go's tools read
	ImportCfg string   // the contents of the file for -importcfg
	EmbedCfg  string   // the same for -embedcfg, or ""
}

// tool is "compile" or "link".
func (c command) tool() string { return filepath.Base(c.Args[0]) }

// value returns the argument after a flag, or "".
func (c command) value(flag string) string {
	if i := slices.Index(c.Args, flag); i >= 0 && i+1 < len(c.Args) {
		return c.Args[i+1]
	}
	return ""
}

// with returns the arguments with other values of flags.
func (c command) with(values map[string]string) []string {
	args := slices.Clone(c.Args)
	for i := range args[1:] {
		if value, is := values[args[i]]; is {
			args[i+1] = value
		}
	}
	return args
}

// folder returns the folder of the package that is compiled.
func (c command) folder() string { return filepath.Dir(join(c.Dir, c.Args[len(c.Args)-1])) }

// plain reports whether a compiled package consists of nothing else but what the compiler makes of the package's files.
func (c command) plain() bool {
	return slices.Contains(c.Args, "-complete") && !slices.ContainsFunc(c.Args, func(arg string) bool {
		return strings.HasPrefix(arg, "-pgoprofile=") || strings.HasPrefix(arg, "-coveragecfg=")
	})
}

// run runs a tool as go build has run it.
func (c command) run(ctx context.Context, args []string) error {
	tool := exec.CommandContext(ctx, args[0], args[1:]...)
	tool.Dir = c.Dir
	tool.Env = append(os.Environ(), c.Env...)
	return tool.Run()
}

// mapArchives returns the contents of an importcfg with other files of packages.
func mapArchives(importCfg string, replace func(path, file string) (string, error)) (string, error) {
	lines := strings.SplitAfter(importCfg, "\n")
	for i, line := range lines {
		if pair, is := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "packagefile "); is {
			path, file, _ := strings.Cut(pair, "=")
			file, err := replace(path, file)
			if err != nil {
				return "", err
			}
			lines[i] = "packagefile " + path + "=" + file + "\n"
		}
	}
	return strings.Join(lines, ""), nil
}

// exportData returns what a compiled package tells the compiler about itself.
func exportData(archive string) ([]byte, error) {
	file, err := os.Open(archive)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	header := make([]byte, len("!<arch>\n")+60) // and of the first entry: its size is at 48
	if _, err := io.ReadFull(file, header); err != nil {
		return nil, err
	}
	size, err := strconv.Atoi(strings.TrimSpace(string(header[len(header)-12 : len(header)-2])))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", archive, err)
	}
	entry := make([]byte, size)
	if _, err := io.ReadFull(file, entry); err != nil {
		return nil, err
	}
	_, data, found := bytes.Cut(entry, []byte("\n$$B\n")) // before it is the build ID
	if !found {
		return nil, fmt.Errorf("%s has no export data", archive)
	}
	return data, nil
}

// recordCommand is what go build runs in place of each tool.
func recordCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "record FOLDER TOOL [ARGUMENT...]",
		Short:              "Record how go build runs a tool, and run it",
		Args:               cobra.MinimumNArgs(2),
		Hidden:             true,
		DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			_ = record(args[0], args[1:]) // what is not recorded is left to go build the next time
			return fmt.Errorf("%s: %w", args[1], syscall.Exec(args[1], args[1:], os.Environ()))
		},
	}
}

// record writes a command to a file. It keeps the packages from which a program is linked, because go build deletes
// those that it has just compiled.
func record(folder string, args []string) error {
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	c := command{Path: os.Getenv("TOOLEXEC_IMPORTPATH"), Args: args, Dir: dir, Env: []string{"PWD=" + dir}}
	if c.Path == "" || slices.Contains(args, "-V=full") || c.tool() != "compile" && c.tool() != "link" {
		return nil
	}
	for _, variable := range os.Environ() {
		if strings.HasPrefix(variable, "GO") {
			c.Env = append(c.Env, variable)
		}
	}
	content, err := os.ReadFile(c.value("-importcfg"))
	if err != nil {
		return err
	}
	c.ImportCfg = string(content)
	if file := c.value("-embedcfg"); file != "" {
		if content, err = os.ReadFile(file); err != nil {
			return err
		}
		c.EmbedCfg = string(content)
	}
	if c.tool() == "link" {
		temporary := os.Getenv("GOTMPDIR")
		c.ImportCfg, err = mapArchives(c.ImportCfg, func(_, file string) (string, error) {
			if !within(temporary, file) {
				return file, nil // in Go's cache
			}
			name := strings.ReplaceAll(strings.TrimPrefix(file, temporary), string(filepath.Separator), "-")
			kept := filepath.Join(objects(folder), name)
			if err := os.Link(file, kept); err != nil && !errors.Is(err, os.ErrExist) { // another program has it, too
				return "", err
			}
			return kept, nil
		})
		if err != nil {
			return err
		}
	}
	text, err := json.Marshal(c)
	if err != nil {
		return err
	}
	file, err := os.CreateTemp(records(folder), "*.json")
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	return errors.Join(err, file.Close())
}

// records holds the commands of the last go build.
func records(folder string) string { return filepath.Join(folder, "records") }

// objects holds compiled packages that are not in Go's cache.
func objects(folder string) string { return filepath.Join(folder, "objects") }

// temporary is for go build: where hard links to objects are possible.
func temporary(folder string) string { return filepath.Join(folder, "tmp") }

// recorder makes go build record its commands.
type recorder struct {
	folder   string
	on       bool   // in the current build
	settings string // Go's, in the current build
}

// settings returns what decides about Go's tools and what they make.
func (p program) settings(ctx context.Context, folder string) (string, error) {
	output, err := p.goCommand(ctx, folder, "env", "GOVERSION", "GOROOT", "GOFLAGS", "GOEXPERIMENT", "GODEBUG",
		"GOFIPS140", "GOAMD64", "GOARM64", "GOARM", "GO386", "GOMIPS", "GOMIPS64", "GOPPC64", "GORISCV64")
	return string(output), err
}

// prepare returns go build's flags and environment to record what it runs, or none if that is impossible.
func (r *recorder) prepare(ctx context.Context, p program, module string) (flags, env []string) {
	r.on = false
	if p.Race || p.Debugger != "" { // these need other tools, and seconds anyway
		return nil, nil
	}
	self, err := os.Executable()
	if err == nil {
		_, err = os.Stat(self) // it may have been deleted
	}
	if err != nil {
		return nil, nil
	}
	wrapper, err := quote(self, "record", r.folder)
	if err != nil {
		return nil, nil
	}
	if r.settings, err = p.settings(ctx, module); err != nil || strings.Contains(r.settings, "-toolexec") {
		return nil, nil
	}
	// A build that was killed has left something.
	if err := errors.Join(os.RemoveAll(records(r.folder)), os.RemoveAll(temporary(r.folder))); err != nil {
		return nil, nil
	}
	for _, folder := range []string{records(r.folder), objects(r.folder), temporary(r.folder)} {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return nil, nil
		}
	}
	r.on = true
	return []string{"-toolexec=" + wrapper}, []string{"GOTMPDIR=" + temporary(r.folder)}
}

// quote returns a list of words as Go's flags take it.
func quote(words ...string) (string, error) {
	for i, word := range words {
		switch {
		case !strings.Contains(word, "'"):
			words[i] = "'" + word + "'"
		case !strings.Contains(word, `"`):
			words[i] = `"` + word + `"`
		default:
			return "", fmt.Errorf("%s has both kinds of quotes", word)
		}
	}
	return strings.Join(words, " "), nil
}

// recorded returns the commands that go build has just run.
func (r *recorder) recorded() (commands []command) {
	files, _ := os.ReadDir(records(r.folder))
	for _, file := range files {
		var c command
		content, err := os.ReadFile(filepath.Join(records(r.folder), file.Name()))
		if err == nil && json.Unmarshal(content, &c) == nil {
			commands = append(commands, c)
		}
	}
	return commands
}

// built is how a program was built the last time.
type built struct {
	contents map[string][]byte  // of its inputs
	settings string             // Go's
	compiled map[string]command // by import path: what go build has compiled since the package's files had other shapes
	link     command
	archives map[string]string // the compiled packages, by import path
}

// remember notes how go build has just built programs.
func (r *recorder) remember(jobs []*job, m *mirror) {
	var commands []command
	if r.on {
		commands = r.recorded()
	}
	for _, j := range jobs {
		j.remember(commands, r.settings, m)
	}
}

func (t *target) remember(commands []command, settings string, m *mirror) {
	last := t.last
	t.last = nil
	b := &built{contents: t.contents, settings: settings, compiled: map[string]command{}, archives: map[string]string{}}
	for _, c := range commands {
		if c.tool() == "link" && c.Path == t.in.program {
			b.link = c
		}
	}
	// Another build ID would be that of the last build. It is empty unless the program's flags say otherwise.
	isID := func(arg string) bool { return strings.HasPrefix(arg, "-buildid=") }
	if ids := slices.DeleteFunc(slices.Clone(b.link.Args), func(arg string) bool { return !isID(arg) }); len(ids) == 0 ||
		ids[len(ids)-1] != "-buildid=" {
		return
	}
	_, _ = mapArchives(b.link.ImportCfg, func(path, file string) (string, error) {
		b.archives[path] = file
		return file, nil
	})
	if last != nil && last.settings == settings {
		b.compiled = maps.Clone(last.compiled)
		_, reshaped := compare(last.contents, t.contents)
		for _, file := range reshaped {
			folders := t.in.readBy(file)
			maps.DeleteFunc(b.compiled, func(_ string, c command) bool {
				// A file that belongs to no package describes modules, or belonged to a package that is gone.
				return len(folders) == 0 ||
					slices.ContainsFunc(folders, func(folder string) bool { return m.path(folder) == c.folder() })
			})
		}
	}
	for _, c := range commands {
		if c.tool() == "compile" && b.archives[c.Path] != "" && c.plain() && within(m.folder, c.folder()) {
			b.compiled[c.Path] = c
		}
	}
	t.last = b
}

// errOther means that only go build can build it.
var errOther = errors.New("it was not built like this before")

// direct builds programs of the same flags without go build. After an error, go build must build them.
func (e *engine) direct(ctx context.Context, jobs []*job) error {
	for _, j := range jobs {
		if j.last == nil {
			return errOther
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var all sync.WaitGroup
	begin := func(do func() error) {
		all.Go(func() {
			if err := do(); err != nil {
				cancel(err)
			}
		})
	}
	begin(func() error {
		settings, err := jobs[0].settings(ctx, e.mirror.path(jobs[0].Module))
		if err == nil && slices.ContainsFunc(jobs, func(j *job) bool { return j.last.settings != settings }) {
			err = errOther
		}
		return err
	})
	c := &compiler{
		ctx: ctx, folder: e.recorder.folder, mirror: e.mirror, once: map[string]func() error{},
		slots: make(chan struct{}, runtime.NumCPU()),
	}
	results := make([]*built, len(jobs))
	for i, j := range jobs {
		begin(func() (err error) {
			results[i], err = c.build(j.target)
			return err
		})
	}
	all.Wait()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	for i, j := range jobs {
		j.last = results[i]
	}
	return nil
}

// compiler compiles what several programs need only once.
type compiler struct {
	ctx    context.Context
	folder string
	mirror *mirror
	slots  chan struct{} // an element for each tool that runs

	mu   sync.Mutex
	once map[string]func() error
}

// build compiles what has changed since the last build, and links the program.
func (c *compiler) build(t *target) (*built, error) {
	changed, reshaped := compare(t.last.contents, t.contents)
	if len(reshaped) > 0 {
		return nil, errOther
	}
	dirty := map[string]bool{} // folders
	for _, file := range changed {
		folders := t.in.readBy(file)
		if len(folders) == 0 {
			return nil, errOther
		}
		for _, folder := range folders {
			dirty[c.mirror.path(folder)] = true
		}
	}
	known := 0
	for _, command := range t.last.compiled {
		if dirty[command.folder()] {
			known++
		}
	}
	if known != len(dirty) {
		return nil, errOther
	}

	next := *t.last
	next.contents, next.archives = t.contents, maps.Clone(t.last.archives)
	var mu sync.Mutex // protects next.archives
	archive := func(path, _ string) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		if next.archives[path] == "" {
			return "", errOther
		}
		return next.archives[path], nil
	}
	// Each returns whether what importing packages see of a package has changed.
	compile := map[string]func() (bool, error){}
	for path, command := range t.last.compiled {
		compile[path] = sync.OnceValues(func() (bool, error) {
			must := dirty[command.folder()]
			if _, err := mapArchives(command.ImportCfg, func(imported, file string) (string, error) {
				if compile[imported] == nil {
					return file, nil
				}
				changed, err := compile[imported]()
				must = must || changed
				return file, err
			}); err != nil || !must {
				return false, err
			}
			importCfg, err := mapArchives(command.ImportCfg, archive)
			if err != nil {
				return false, err
			}
			compiled, err := c.compile(t, command, importCfg)
			if err != nil {
				return false, err
			}
			before, err := exportData(t.last.archives[path])
			if err != nil {
				return false, err
			}
			after, err := exportData(compiled)
			mu.Lock()
			defer mu.Unlock()
			next.archives[path] = compiled
			return !bytes.Equal(before, after), err
		})
	}
	var all sync.WaitGroup
	errs := make(chan error, len(compile))
	for _, do := range compile {
		all.Go(func() {
			_, err := do()
			errs <- err
		})
	}
	all.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			return nil, err
		}
	}

	importCfg, err := mapArchives(next.link.ImportCfg, archive)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(objects(c.folder), t.Name+".importcfg")
	if err := os.WriteFile(file, []byte(importCfg), 0o600); err != nil {
		return nil, err
	}
	args := next.link.with(map[string]string{"-o": t.built(), "-importcfg": file})
	args[len(args)-1] = next.archives[next.link.Path]
	return &next, next.link.run(c.ctx, args)
}

// compile compiles a package of a program, and returns the file.
func (c *compiler) compile(t *target, command command, importCfg string) (string, error) {
	// The name stands for everything that the compiler reads.
	sum := sha256.New()
	fmt.Fprintf(sum, "%q %q %q %q %q\n", command.Args, command.Dir, command.Env, importCfg, command.EmbedCfg)
	for _, path := range slices.Sorted(maps.Keys(t.contents)) {
		for _, folder := range t.in.readBy(path) {
			if c.mirror.path(folder) == command.folder() {
				fmt.Fprintf(sum, "%q %d\n%s", path, len(t.contents[path]), t.contents[path])
			}
		}
	}
	name := filepath.Join(objects(c.folder), fmt.Sprintf("%x", sum.Sum(nil)))
	c.mu.Lock()
	do := c.once[name]
	if do == nil {
		do = sync.OnceValue(func() error {
			c.slots <- struct{}{}
			defer func() { <-c.slots }()
			values := map[string]string{
				"-o": name + ".new", "-importcfg": name + ".importcfg", "-embedcfg": name + ".embedcfg",
			}
			if err := errors.Join(os.WriteFile(values["-importcfg"], []byte(importCfg), 0o600),
				os.WriteFile(values["-embedcfg"], []byte(command.EmbedCfg), 0o600),
				command.run(c.ctx, command.with(values))); err != nil {
				return err
			}
			return os.Rename(values["-o"], name)
		})
		c.once[name] = do
	}
	c.mu.Unlock()
	return name, do()
}

// clean deletes the compiled packages of which no program consists any more.
func (r *recorder) clean(targets []*target) {
	kept := map[string]bool{}
	for _, t := range targets {
		if t.last != nil {
			for _, file := range t.last.archives {
				kept[file] = true
			}
		}
	}
	entries, _ := os.ReadDir(objects(r.folder))
	for _, entry := range entries {
		if file := filepath.Join(objects(r.folder), entry.Name()); !kept[file] {
			_ = os.Remove(file) // or after the next build
		}
	}
}
