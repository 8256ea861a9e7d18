// Package docs compares the documentation with what it describes: links, figures, messages and commands.
package docs

import (
	"fmt"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/checkouttest"
	"example.com/invoices/internal/docstest"
)

const repository = "../.."

func TestEveryLinkLeadsSomewhere(t *testing.T) {
	files := map[string]bool{} // and folders
	for _, file := range repositoryFiles(t) {
		for name := file; name != "."; name = path.Dir(name) {
			files[name] = true
		}
	}
	pages := docstest.Pages(t, repository)
	require.Contains(t, pages, "README.md")
	for file, p := range pages {
		for _, link := range p.Links {
			assert.NoError(t, follow(files, pages, file, link), "%s: the link to %q", file, link)
		}
	}
}

// follow returns an error if a link is broken, as far as the repository can tell.
func follow(files map[string]bool, pages map[string]docstest.Page, from, link string) error {
	target, err := url.Parse(link)
	if err != nil {
		return err
	}
	if target.IsAbs() {
		if target.Scheme != "https" {
			return fmt.Errorf("must be https")
		}
		return nil
	}
	name := from
	if target.Path != "" {
		// On GitHub, a link that begins with a slash is relative to the repository; in other viewers it is not.
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
	if p, isPage := pages[name]; !isPage || !p.Anchors[target.Fragment] {
		return fmt.Errorf("%s has no heading #%s", name, target.Fragment)
	}
	return nil
}

func TestBrokenLinksAreFound(t *testing.T) {
	files := map[string]bool{"README.md": true, "docs": true, "docs/a.md": true, "deploy.sh": true}
	a := docstest.Read("# A `b.c`: d, e_f\n# Twice\n# Twice\n# [L](x) *y*\n```\n# no\n```\n")
	pages := map[string]docstest.Page{"README.md": {}, "docs/a.md": a}
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
		docstest.Read("[x](a) ![x](b) `[x](no)` [x](<c d>)\n\n"+
			"| t |\n|---|\n| [x][r] |\n\n[r]: e\n\n```\n[x](no)\n```\n").Links)
}

func read(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(repository, file))
	require.NoError(t, err)
	return string(content)
}

// repositoryFiles returns the files that git tracks or would add.
func repositoryFiles(t *testing.T) []string {
	t.Helper()
	files, err := checkouttest.Files(repository)
	require.NoError(t, err)
	return files
}
