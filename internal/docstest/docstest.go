// Package docstest reads Markdown pages and runs the commands that they show.
package docstest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/text"

	"example.com/invoices/internal/checkouttest"
)

// Page is a Markdown file as GitHub shows it.
type Page struct {
	Anchors map[string]bool
	Links   []string
	Blocks  []Block
	Spans   []string // inline code
}

// Block is a fenced block of code. The words after its language, which no reader sees, are its marks.
type Block struct {
	Language string
	Marks    []string
	Code     string
	Output   string // a block without such marks that directly follows it
	Line     int
	Fenced   bool
}

// Is reports whether the block is shell and has exactly these marks.
func (b Block) Is(marks ...string) bool { return b.Language == "sh" && slices.Equal(b.Marks, marks) }

// Pages reads all Markdown files below root that git knows or would add.
func Pages(t *testing.T, root string) map[string]Page {
	t.Helper()
	pages := map[string]Page{}
	files, err := checkouttest.Files(root)
	require.NoError(t, err)
	for _, file := range files {
		if filepath.Ext(file) == ".md" {
			content, err := os.ReadFile(filepath.Join(root, file))
			require.NoError(t, err)
			pages[file] = Read(string(content))
		}
	}
	return pages
}

// Read parses a page.
func Read(markdown string) Page {
	p := Page{Anchors: map[string]bool{}}
	source := []byte(markdown)
	document := goldmark.New(goldmark.WithExtensions(extension.GFM)).Parser().Parse(text.NewReader(source))
	_ = ast.Walk(document, func(node ast.Node, entering bool) (ast.WalkStatus, error) {
		if !entering {
			return ast.WalkContinue, nil
		}
		switch node := node.(type) {
		case *ast.Heading:
			slug := anchor(plain(node, source))
			for n, base := 1, slug; p.Anchors[slug]; n++ {
				slug = fmt.Sprintf("%s-%d", base, n)
			}
			p.Anchors[slug] = true
		case *ast.Link:
			p.Links = append(p.Links, string(node.Destination))
		case *ast.Image:
			p.Links = append(p.Links, string(node.Destination))
		case *ast.CodeSpan:
			p.Spans = append(p.Spans, plain(node, source))
		case *ast.CodeBlock:
			p.Blocks = append(p.Blocks, Block{Code: string(node.Lines().Value(source)), Line: line(node, source)})
		case *ast.FencedCodeBlock:
			b := Block{Code: string(node.Lines().Value(source)), Line: line(node, source), Fenced: true}
			if node.Info != nil {
				words := strings.Fields(string(node.Info.Value(source)))
				b.Language, b.Marks = words[0], words[1:]
			}
			if before, isBlock := node.PreviousSibling().(*ast.FencedCodeBlock); isBlock && b.Language != "sh" &&
				string(before.Language(source)) == "sh" {
				p.Blocks[len(p.Blocks)-1].Output = b.Code
				break
			}
			p.Blocks = append(p.Blocks, b)
		}
		return ast.WalkContinue, nil
	})
	return p
}

func line(node ast.Node, source []byte) int {
	if node.Lines().Len() == 0 {
		return 0
	}
	return strings.Count(string(source[:node.Lines().At(0).Start]), "\n") + 1
}

// plain returns the text of a node without its markup.
func plain(node ast.Node, source []byte) string {
	var words strings.Builder
	_ = ast.Walk(node, func(node ast.Node, entering bool) (ast.WalkStatus, error) {
		if leaf, isText := node.(*ast.Text); isText && entering {
			words.Write(leaf.Segment.Value(source))
		}
		return ast.WalkContinue, nil
	})
	return words.String()
}

// anchor returns the anchor that GitHub gives a heading.
func anchor(heading string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-', r == '_', unicode.IsLetter(r), unicode.IsNumber(r), unicode.IsMark(r):
			return unicode.ToLower(r)
		}
		return -1
	}, heading)
}

// Run runs the block in a folder, and compares what it prints with the page. In both, replace maps what the page
// says, like an address, to what holds in this test.
func (b Block) Run(t *testing.T, folder string, environment []string, replace map[string]string, fails bool) {
	t.Helper()
	code, want := b.Code, b.Output
	for old, replacement := range replace {
		code, want = strings.ReplaceAll(code, old, replacement), strings.ReplaceAll(want, old, replacement)
	}
	command := exec.CommandContext(t.Context(), "sh", "-e", "-c", code)
	command.Dir, command.Env = folder, environment
	output, err := command.CombinedOutput()
	if fails {
		require.Error(t, err, "%s\n%s", code, output)
	} else {
		require.NoError(t, err, "%s\n%s", code, output)
	}
	if want != "" {
		// An ellipsis stands for anything.
		pattern := strings.ReplaceAll(regexp.QuoteMeta(strings.TrimSpace(want)), "…", ".*")
		assert.Regexp(t, `^`+pattern+`$`, strings.TrimSpace(string(output)), "line %d shows this output of\n%s", b.Line, code)
	}
}
