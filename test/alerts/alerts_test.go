// Package alerts tests the alert rules of k8s/monitoring, and that each has a section in docs/operations.md.
package alerts

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

const root = "../.."

type rules struct {
	Groups []struct {
		Name  string
		Rules []map[string]any
	}
}

func readRules(t *testing.T) (r rules) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "k8s/monitoring/base/rules.yaml"))
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(text, &r))
	require.NotEmpty(t, r.Groups)
	return r
}

// alerts returns the rules by the alert's name.
func (r rules) alerts(t *testing.T) map[string]map[string]any {
	t.Helper()
	alerts := map[string]map[string]any{}
	for _, group := range r.Groups {
		for _, rule := range group.Rules {
			name := rule["alert"].(string)
			require.NotContains(t, alerts, name)
			alerts[name] = rule
		}
	}
	return alerts
}

// run runs the unit tests in tests.yaml with these rules.
func run(t *testing.T, r rules) (output string, passed bool) {
	t.Helper()
	folder := t.TempDir()
	text, err := yaml.Marshal(map[string]any{"groups": r.Groups})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "rules.yaml"), text, 0o644))
	text, err = os.ReadFile("tests.yaml")
	require.NoError(t, err)
	tests := filepath.Join(folder, "tests.yaml")
	require.NoError(t, os.WriteFile(tests, text, 0o644))
	tool := exec.Command("go", "-C", filepath.Join(root, "tools/victoria-metrics"), "tool", "vmalert-tool",
		"unittest", "--files", tests)
	tool.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := tool.CombinedOutput()
	return string(out), err == nil
}

func TestRules(t *testing.T) {
	output, passed := run(t, readRules(t))
	require.True(t, passed, output)
}

// failure matches the failure of a test, and says whether it expected no alert.
var failure = regexp.MustCompile(`alertname: (\w+),[^\]]*?exp:\[\s*(\])?`)

// Each alert's tests fail if it never fires, and if it always does.
func TestTestsOfRulesCanFail(t *testing.T) {
	for name, expression := range map[string]string{"never": "vector(0) > 1", "always": "vector(1)"} {
		t.Run(name, func(t *testing.T) {
			r := readRules(t)
			alerts := r.alerts(t)
			for _, rule := range alerts {
				rule["expr"] = expression
				delete(rule, "for")
			}
			output, passed := run(t, r)
			require.False(t, passed)
			failed := map[string]bool{}
			for _, match := range failure.FindAllStringSubmatch(output, -1) {
				if nothing := match[2] != ""; nothing == (name == "always") {
					failed[match[1]] = true
				}
			}
			assert.ElementsMatch(t, slices.Collect(maps.Keys(alerts)), slices.Collect(maps.Keys(failed)))
		})
	}
}

func TestEachAlertIsExplained(t *testing.T) {
	var names []string
	for name, rule := range readRules(t).alerts(t) {
		names = append(names, name)
		assert.Contains(t, []any{"critical", "warning"}, rule["labels"].(map[string]any)["severity"], name)
	}
	page, err := os.ReadFile(filepath.Join(root, "docs/operations.md"))
	require.NoError(t, err)
	var explained []string
	for _, heading := range regexp.MustCompile(`(?m)^### (\w+)$`).FindAllStringSubmatch(string(page), -1) {
		explained = append(explained, heading[1])
	}
	assert.ElementsMatch(t, names, explained, "the sections of docs/operations.md")
	for _, part := range strings.Split(string(page), "\n### ")[1:] {
		for _, question := range []string{"**Means**", "**Look at**", "**Do**"} {
			assert.Contains(t, part, question, part[:strings.IndexByte(part, '\n')])
		}
	}
}
