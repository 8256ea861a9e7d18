// Package docs compares the documentation with what it describes: its links, its figures, and the
// commands that a newcomer types first.
package docs

import (
	"fmt"
	"net/url"
	"os"
	"path"
	"path/filepath"
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

const repository = "../.."

// page is a Markdown file as GitHub shows it.
type page struct {
	anchors map[string]bool
	links   []string
	blocks  []block
}

// block is a fenced block of code.
type block struct{ language, code string }

func TestEveryLinkLeadsSomewhere(t *testing.T) {
	files := map[string]bool{} // and folders
	pages := map[string]page{}
	for _, file := range repositoryFiles(t) {
		for name := file; name != "."; name = path.Dir(name) {
			files[name] = true
		}
		if path.Ext(file) == ".md" {
			pages[file] = readPage(read(t, file))
		}
	}
	require.Contains(t, pages, "README.md")
	for file, p := range pages {
		for _, link := range p.links {
			assert.NoError(t, follow(files, pages, file, link), "%s: the link to %q", file, link)
		}
	}
}

// follow says what is wrong with a link, as far as this repository can tell.
func follow(files map[string]bool, pages map[string]page, from, link string) error {
	target, err := url.Parse(link)
	if err != nil {
		return err
	}
	if target.IsAbs() {
		if target.Scheme != "https" {
			return fmt.Errorf("only https is linked to")
		}
		return nil
	}
	name := from
	if target.Path != "" {
		// GitHub shows a link that begins with a slash relative to the repository, other viewers do not.
		if path.IsAbs(target.Path) {
			return fmt.Errorf("a relative path works everywhere, %s does not", target.Path)
		}
		name = path.Join(path.Dir(from), target.Path)
	}
	if name != "." && !files[name] {
		return fmt.Errorf("the repository has no %s", name)
	}
	if target.Fragment == "" {
		return nil
	}
	if p, isPage := pages[name]; !isPage || !p.anchors[target.Fragment] {
		return fmt.Errorf("%s has no heading #%s", name, target.Fragment)
	}
	return nil
}

func TestBrokenLinksAreFound(t *testing.T) {
	files := map[string]bool{"README.md": true, "docs": true, "docs/a.md": true, "deploy.sh": true}
	a := readPage("# A `b.c`: d, e_f\n# Twice\n# Twice\n# [L](x) *y*\n```\n# no\n```\n")
	pages := map[string]page{"README.md": {}, "docs/a.md": a}
	for link, broken := range map[string]bool{
		"a.md": false, "../README.md": false, "../docs": false, "../docs/": false, "..": false, "https://example.com": false,
		"#a-bc-d-e_f": false, "a.md#twice": false, "a.md#twice-1": false, "#l-y": false,
		"a.md#twice-2": true, "#A-bc-d-e_f": true, "#no": true, "b.md": true, "A.md": true, "../../docs/a.md": true,
		"/docs/a.md": true, "../deploy.sh#L3": true, "http://example.com": true, "../deploy.sh/x": true,
	} {
		err := follow(files, pages, "docs/a.md", link)
		assert.Equal(t, broken, err != nil, "%s: %v", link, err)
	}
	assert.Equal(t, []string{"a", "b", "c d", "e"},
		readPage("[x](a) ![x](b) `[x](no)` [x](<c d>)\n\n| t |\n|---|\n| [x][r] |\n\n[r]: e\n\n```\n[x](no)\n```\n").links)
}

func readPage(markdown string) page {
	p := page{anchors: map[string]bool{}}
	source := []byte(markdown)
	document := goldmark.New(goldmark.WithExtensions(extension.GFM)).Parser().Parse(text.NewReader(source))
	_ = ast.Walk(document, func(node ast.Node, entering bool) (ast.WalkStatus, error) {
		if !entering {
			return ast.WalkContinue, nil
		}
		switch node := node.(type) {
		case *ast.Heading:
			slug := anchor(plain(node, source))
			for n, base := 1, slug; p.anchors[slug]; n++ {
				slug = fmt.Sprintf("%s-%d", base, n)
			}
			p.anchors[slug] = true
		case *ast.Link:
			p.links = append(p.links, string(node.Destination))
		case *ast.Image:
			p.links = append(p.links, string(node.Destination))
		case *ast.FencedCodeBlock:
			p.blocks = append(p.blocks, block{string(node.Language(source)), string(node.Lines().Value(source))})
		}
		return ast.WalkContinue, nil
	})
	return p
}

// plain is what a reader sees of a node.
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

// anchor is what GitHub makes of a heading.
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

// repositoryFiles are those that git knows, or would add.
func repositoryFiles(t *testing.T) []string {
	t.Helper()
	files, err := checkouttest.Files(repository)
	require.NoError(t, err)
	return files
}

func read(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(repository, file))
	require.NoError(t, err)
	return string(content)
}
