package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// countsGoBuild returns a function that returns how often the watcher has run go build.
func countsGoBuild(t *testing.T) func() int {
	t.Helper()
	compiler, err := exec.LookPath("go")
	require.NoError(t, err)
	bin := t.TempDir()
	write(t, filepath.Join(bin, "go"), fmt.Sprintf("#!/bin/sh\ncase \"$*\" in build*/.new/*) echo >>%q/log ;; esac\n"+
		"exec %q \"$@\"\n", bin, compiler))
	require.NoError(t, os.Chmod(filepath.Join(bin, "go"), 0o755))
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	return func() int {
		log, _ := os.ReadFile(filepath.Join(bin, "log"))
		return strings.Count(string(log), "\n")
	}
}

// buildByHand returns what the documented command makes of what is on disk, or an error with its output.
func buildByHand(t *testing.T, name string) (string, error) {
	t.Helper()
	program := filepath.Join(t.TempDir(), name)
	command := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-gcflags=all=-dwarf=false",
		"-ldflags=-s -w -buildid=", "-tags=cluster", "-o", program, "./"+name)
	command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	if output, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, output)
	}
	return read(t, program), nil
}

// library is a shop of programs whose packages depend on each other in many ways.
var library = map[string]string{
	"internal/name.go": named("first"),
	"base/base.go": `package base

const Size = 10

type Item struct {
	Price int
}

func (i Item) Total() int { return i.Price * Size }

func Inlined(x int) int { return x + 1 }

func Sum[T int | float64](items ...T) (sum T) {
	for _, item := range items {
		sum += item
	}
	return sum
}

var Order = note("base")

func note(name string) int { println(name); return len(name) }

func Unused() {}
`,
	"base/linked.go": `package base

import _ "unsafe"

//go:linkname now runtime.nanotime
func now() int64

func Linked() bool { return now() > 1 }
`,
	"base/linux.go": "//go:build cluster\n\npackage base\n\nconst Where = \"cluster\"\n",
	"base/other.go": "//go:build !cluster\n\npackage base\n\nconst Where = \"elsewhere\"\n",
	"middle/middle.go": `package middle

import "example.com/shop/base"

type Box struct{ base.Item }

var Order = base.Order + 1

func Count() int { return base.Inlined(base.Size) + base.Sum(1, 2) }

func Title() string { return base.Where }
`,
	"middle/web/page.html": "a page",
	"middle/embed.go": `package middle

import _ "embed"

//go:embed web/page.html
var Page string
`,
	"till/main.go": `package main

import (
	"example.com/shop/assembled"
	"example.com/shop/base"
	"example.com/shop/internal"
	"example.com/shop/middle"
)

func main() {
	box := middle.Box{Item: base.Item{Price: assembled.Price}}
	println(internal.Name, box.Total(), middle.Count(), middle.Title(), middle.Page, middle.Order, base.Linked())
	println(base.Sum(1.5, 2))
}
`,
	"assembled/assembled.go": "package assembled\n\nconst Price = 2\n",
	"assembled/empty.s":      "",
	"door/main.go": `package main

import "example.com/shop/base"

func main() { println(base.Inlined(1), base.Size) }
`,
}

// libraryShop is a shop with the library, of which go build has compiled each package for both programs.
func libraryShop(t *testing.T) *fixture {
	t.Helper()
	f := shop(t)
	for file, content := range library {
		write(t, file, content)
	}
	f.builds(till(), door())
	for file, content := range library {
		if filepath.Ext(file) == ".go" {
			// No such package is in Go's cache.
			write(t, file, content+fmt.Sprintf("\nfunc init() { println(%d) }\n", time.Now().UnixNano()))
		}
	}
	f.said("till")
	return f
}

// The program without go build is that of go build.
func TestWithoutGoBuild(t *testing.T) {
	f := libraryShop(t)
	f.is(t)
	original := programs(t)
	count := countsGoBuild(t)
	for _, test := range []struct {
		name, file, old, new string
		goBuild              bool
		error                string
	}{
		{"a constant", "internal/name.go", "\"first\"", "\"wanted\"", false, ""},
		{"a constant of others", "base/base.go", "Size = 10", "Size = 11", false, ""},
		{"an inlined function", "base/base.go", "x + 1", "x + 2", false, ""},
		{
			"a function that was inlined", "base/base.go", "{ return x + 1 }",
			"{ defer println(x); return x }", false, "",
		},
		{"a generic function", "base/base.go", "sum += item", "sum += item + item", false, ""},
		{"a method", "base/base.go", "i.Price * Size", "i.Price * Size * 2", false, ""},
		{
			"a new method", "base/base.go", "var Order",
			"func (i Item) String() string { return \"x\" }\n\nvar Order", false, "",
		},
		{"a field", "base/base.go", "Price int", "Name string\n\tPrice int", false, ""},
		{
			"a field beside an embedded one", "middle/middle.go", "struct{ base.Item }",
			"struct {\n\tbase.Item\n\tn int\n}", false, "",
		},
		{
			"the order of initialization", "base/base.go", "var Order = note(\"base\")",
			"var Order = later + 1\n\nvar later = note(\"later\")", false, "",
		},
		{"a new init", "middle/middle.go", "type Box", "func init() { println(\"init\") }\n\ntype Box", false, ""},
		{"a deleted function", "base/base.go", "func Unused() {}", "", false, ""},
		{"another line", "base/base.go", "const Size", "// Size is a size.\n\n\nconst Size", false, ""},
		{"a comment at the end", "base/base.go", "func Unused() {}", "func Unused() {} // x", false, ""},
		{"a linked function", "base/linked.go", "now() > 1", "now() > 2", false, ""},
		{"for the cluster", "base/linux.go", "\"cluster\"", "\"the cluster\"", false, ""},
		{"not for the cluster", "base/other.go", "\"elsewhere\"", "\"anywhere\"", false, ""},
		{"an embedded file", "middle/web/page.html", "a page", "another page", false, ""},
		{"a panic", "middle/middle.go", "return base.Where", "panic(base.Where)", false, ""},
		{
			"a function that others call", "base/base.go", "func Inlined",
			"func Outlined", true, "undefined: base.Inlined",
		},
		{
			"a function with another type", "base/base.go", "Inlined(x int) int { return x + 1 }",
			"Inlined(x string) string { return x }", true, "as string value in argument to base.Inlined",
		},
		{"a syntax error", "middle/middle.go", "type Box", "typ Box", true, "middle/middle.go:5:1: syntax error"},
		{"no such function to link", "base/linked.go", "runtime.nanotime", "runtime.nosuch", true, "nosuch"},
		{"what has assembly", "assembled/assembled.go", "Price = 2", "Price = 3", true, ""},
		{"a new constraint", "base/other.go", "!cluster", "!cluster && x", true, ""},
		{"a new import", "base/linux.go", "const", "import _ \"strings\"\n\nconst", true, ""},
		{"a directive", "door/main.go", "package", "//go:debug panicnil=1\npackage", true, ""},
		{"the module", "go.mod", "go 1.26", "go 1.25", true, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			before, content := count(), read(t, test.file)
			require.Equal(t, 1, strings.Count(content, test.old))
			write(t, test.file, strings.Replace(content, test.old, test.new, 1))
			if test.error != "" {
				assert.Contains(t, f.said("till")+f.said("door"), test.error)
			} else {
				f.is(t)
			}
			assert.Equal(t, test.goBuild, count() > before, "go build ran")
			write(t, test.file, content)
			f.said("till")
			assert.True(t, original == programs(t), "the undo gives the first bytes")
		})
	}
}

// programs returns what was built.
func programs(t *testing.T) [2]string { return [2]string{read(t, file), read(t, "live/door/door")} }

// is waits for what was saved, and expects the bytes of a build by hand.
func (f *fixture) is(t *testing.T) {
	t.Helper()
	for _, name := range []string{"till", "door"} {
		said := f.said(name)
		require.NotContains(t, said, "go_live:")
		want, err := buildByHand(t, name)
		require.NoError(t, err)
		require.True(t, want == read(t, filepath.Join("live", name, name)), "the bytes of %s are the same", name)
	}
}

// Whatever is edited in whatever order, the bytes are those of a build by hand, or both fail.
func TestRandomEdits(t *testing.T) {
	f := libraryShop(t)
	edits := []struct{ file, old, new string }{
		{"internal/name.go", "first", "wanted"},
		{"base/base.go", "Size = 10", "Size = 11"},
		{"base/base.go", "return x + 1", "return x + 2"},
		{"base/base.go", "sum += item\n", "sum += item + 1\n"},
		{"base/base.go", "Price int", "Name string\n\tPrice int"},
		{"base/base.go", "func Unused() {}\n", ""},
		{"base/base.go", "func Inlined", "func Outlined"}, // fails alone
		{"middle/middle.go", "base.Inlined(", "base.Outlined("},
		{"door/main.go", "base.Inlined(", "base.Outlined("},
		{"middle/middle.go", "base.Order + 1", "base.Order + 2"},
		{"middle/web/page.html", "a page", "another page"},
		{"base/linux.go", "\"cluster\"", "\"the cluster\""},
		{"base/linux.go", "const", "import _ \"strings\"\n\nconst"},
		{"door/main.go", "base.Size", "base.Size, base.Where"},
	}
	seed := time.Now().UnixNano()
	t.Log("seed:", seed)
	random, done := rand.New(rand.NewPCG(uint64(seed), 0)), map[int]bool{}
	for range 15 {
		for range 1 + random.IntN(3) {
			i := random.IntN(len(edits))
			edit, content := edits[i], read(t, edits[i].file)
			if done[i] {
				edit.old, edit.new = edit.new, edit.old
			}
			if edit.old == "" {
				edit.old, edit.new = "type Item", edit.new+"\ntype Item"
			}
			require.Contains(t, content, edit.old)
			write(t, edit.file, strings.Replace(content, edit.old, edit.new, 1))
			done[i] = !done[i]
		}
		for _, name := range []string{"till", "door"} {
			said := f.said(name)
			want, err := buildByHand(t, name)
			if err != nil {
				assert.Contains(t, said, "go_live: go build: exit status 1")
				continue
			}
			require.NotContains(t, said, "go_live:")
			require.True(t, want == read(t, filepath.Join("live", name, name)), "the bytes of %s are the same", name)
		}
	}
}
