package docs

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"mvdan.cc/sh/v3/syntax"

	"example.com/invoices/internal/docstest"
)

// TestCommandsExist checks every command on every page without running it: its program, its subcommand, and each flag,
// file and Kubernetes object that it names. Commands are the lines of shell blocks, and inline code that starts with
// one of the programs in checker.check.
func TestCommandsExist(t *testing.T) {
	c := newChecker(t)
	for file, page := range docstest.Pages(t, repository) {
		for _, b := range page.Blocks {
			if problem := rule(b); problem != "" {
				t.Errorf("%s:%d: %s", file, b.Line, problem)
			} else if b.Language == "sh" && !ofNewService(b) {
				if err := c.script(b.Code); err != nil {
					t.Errorf("%s:%d: %v", file, b.Line, err)
				}
			}
		}
		for _, span := range page.Spans {
			words := strings.Fields(assignments.ReplaceAllString(span, ""))
			if len(words) == 0 || c.check[strings.TrimPrefix(words[0], "./")] == nil {
				continue
			}
			if err := c.script(span); err != nil {
				t.Errorf("%s: `%s`: %v", file, span, err)
			}
		}
	}
}

var assignments = regexp.MustCompile(`^([A-Z_]+=\S* )+`)

// rule returns the problem of a block that no test runs or checks, or "".
func rule(b docstest.Block) string {
	switch {
	case b.Is(), b.Is("dry"), b.Is("cluster"), b.Is("cluster", "fails"), b.Is("observe"):
		return ""
	case ofNewService(b):
		return ""
	case b.Language == "sh":
		return fmt.Sprintf("mark the block as `sh` (runs on any machine), `sh cluster` or `sh cluster fails` (runs on a "+
			"cluster), `sh observe` (with --observe), or `sh dry` (is only checked), instead of %q: "+
			"see docs/testing.md", strings.Join(b.Marks, " "))
	case !b.Fenced:
		return "fence the block, so that it is checked: ```sh for commands, ``` for anything else"
	case slices.Contains([]string{"bash", "console", "shell", "zsh"}, b.Language):
		return "call the language sh, so that its commands are checked"
	}
	return ""
}

// ofNewService reports whether test/cluster/newservice runs the block, which it finds by its second mark. The files and
// objects in such a block do not exist before the page's first step.
func ofNewService(b docstest.Block) bool {
	return b.Language == "sh" && len(b.Marks) == 2 && b.Marks[0] == "newservice"
}

func TestMistakesInCommandsAreFound(t *testing.T) {
	c := newChecker(t)
	context := slices.Min(slices.Collect(maps.Keys(c.contexts))) // kind's
	for script, found := range map[string]string{
		"./deploy.sh --stop":                                   "",
		"workspace/run images export images.tar":               "",
		"CLUSTER_NAME=second ./deploy.sh":                      "",
		"make bench-pay BENCH_PAY=-short":                      "",
		"go test -count=1 ./internal/money":                    "",
		"go -C test/cluster test ./page -invoices 9 -run Many": "",
		"kubectl --context CONTEXT -n platform get pods":       "",
		"tilt up --context CONTEXT -- --debug invoice-app":     "",
		"workspace/run images | grep x":                        "",
		"./deploy.sh --halt":                                   "--halt",
		"./deploy.sh 'a":                                       "quote",
		"./redeploy.sh":                                        "./redeploy.sh",
		"workspace/run image":                                  `"image"`,
		"workspace/run images exprot images.tar":               "exprot",
		"CLUSTER=second ./deploy.sh":                           "CLUSTER",
		"make tests":                                           "tests",
		"make bench-pay BENCH=-short":                          "BENCH",
		"go test -cuont=1 ./internal/money":                    "-cuont",
		"go test ./internal/monye":                             "monye",
		"go test ./internal/money -run TestNothing":            "TestNothing",
		"go -C test/cluster test ./page -invoice 9":            "-invoice",
		"kubectl --context another -n platform get pods":       "another",
		"kubectl --context CONTEXT --namespace=platfrm get po": "platfrm",
		"kubectl --context CONTEXT logs deployment/invoiceapp": "invoiceapp",
		"tilt up -- --dbug invoice-app":                        "--dbug",
		"ctlptl apply -f ctlptl.yml":                           "ctlptl.yml",
		"echo \"$(workspace/run tool)\"":                       `"tool"`,
		"frobnicate":                                           "frobnicate",
	} {
		err := c.script(strings.ReplaceAll(script, "CONTEXT", context))
		if found == "" {
			assert.NoError(t, err, script)
		} else {
			assert.ErrorContains(t, err, found, script)
		}
	}
	for marks, known := range map[string]bool{"": true, "dry": true, "cluster fails": true, "dyr": false, "fails": false} {
		assert.Equal(t, known, rule(docstest.Block{Language: "sh", Marks: strings.Fields(marks), Fenced: true}) == "", marks)
	}
}

// checker checks the commands on the pages.
type checker struct {
	t          *testing.T
	sources    string // all files but the pages
	path       string // PATH, and the folder of the workspace's tools
	targets    string // the output of make help
	contexts   map[string]bool
	namespaces map[string]bool
	workloads  map[string]bool
	check      map[string]func(words []string) error // by program
	checked    map[string]error                      // by script
}

func newChecker(t *testing.T) *checker {
	c := &checker{
		t:       t,
		targets: run(t, repository, nil, "make", "help"),
		// A cluster's context has the name in its definition.
		contexts: names(t, `(?m)^name: ((?:kind|minikube)-[a-z-]+)$`,
			"ctlptl.yaml", "ctlptl-minikube.yaml", "ctlptl-production.yaml"),
		namespaces: names(t, `(?m)^(?:kind: Namespace\nmetadata:\n  name|    team): (.*)$`,
			"k8s/platform/namespace.yaml", "k8s/monitoring/base/namespace.yaml", "k8s/databases/namespace.yaml",
			"services.yaml"),
		workloads: map[string]bool{},
		checked:   map[string]error{},
	}
	var sources strings.Builder
	for _, file := range repositoryFiles(t) {
		if path.Ext(file) == ".md" || path.Dir(file) == "test/docs" {
			continue
		}
		sources.WriteString(read(t, file))
		base := strings.HasPrefix(file, "k8s/base/") || strings.HasPrefix(file, "k8s/monitoring/base/")
		if base && path.Ext(file) == ".yaml" {
			for name := range names(t, `(?m)^kind: (?:Deployment|StatefulSet)\nmetadata:\n  name: (.*)$`, file) {
				c.workloads[name] = true
			}
		}
	}
	c.sources = sources.String()
	for _, known := range []map[string]bool{c.contexts, c.namespaces, c.workloads} {
		require.GreaterOrEqual(t, len(known), 2, "%v: the pattern must match at least two", known)
	}
	cache, err := os.UserCacheDir()
	require.NoError(t, err)
	product := slices.Collect(maps.Keys(names(t, `(?m)^product: (.*)$`, "services.yaml")))[0]
	c.path = os.Getenv("PATH") + string(os.PathListSeparator) + filepath.Join(cache, product, "bin")
	c.check = map[string]func([]string) error{
		"deploy.sh": c.ours, "test.sh": c.ours, "workspace/run": c.ours, "make": c.make, "go": c.golang,
		"kubectl": c.kubectl, "tilt": c.tilt, "ctlptl": c.help, "docker": c.help, "minikube": c.help,
	}
	return c
}

// names returns the texts that the pattern's group matches in the files.
func names(t *testing.T, pattern string, files ...string) map[string]bool {
	found := map[string]bool{}
	for _, file := range files {
		for _, match := range regexp.MustCompile(pattern).FindAllStringSubmatch(read(t, file), -1) {
			found[match[1]] = true
		}
	}
	return found
}

// script checks each command of a script.
func (c *checker) script(code string) error {
	err, known := c.checked[code]
	if !known {
		err = c.parse(code)
		c.checked[code] = err
	}
	return err
}

func (c *checker) parse(code string) (err error) {
	file, err := syntax.NewParser(syntax.Variant(syntax.LangPOSIX)).Parse(strings.NewReader(code), "")
	if err != nil {
		return err
	}
	syntax.Walk(file, func(node syntax.Node) bool {
		if call, isCall := node.(*syntax.CallExpr); isCall && err == nil {
			err = c.call(call)
		}
		return err == nil
	})
	return err
}

func (c *checker) call(call *syntax.CallExpr) error {
	for _, assignment := range call.Assigns {
		name := assignment.Name.Value
		if !regexp.MustCompile(`"` + name + `"|\$\(` + name + `\)|\$\{?` + name + `\b`).MatchString(c.sources) {
			return fmt.Errorf("nothing reads the variable %s", name)
		}
	}
	var words []string
	for _, arg := range call.Args {
		words = append(words, literal(arg.Parts))
	}
	if len(words) == 0 {
		return nil
	}
	for _, word := range words[1:] {
		if slices.Contains([]string{".yaml", ".yml", ".go", ".sh"}, path.Ext(word)) {
			if _, err := os.Stat(filepath.Join(repository, word)); err != nil {
				return fmt.Errorf("the repository has no %s", word)
			}
		}
	}
	if check := c.check[strings.TrimPrefix(words[0], "./")]; check != nil {
		return check(words)
	}
	if strings.Contains(words[0], "/") {
		return fmt.Errorf("no test checks %s: add it to newChecker", words[0])
	}
	if exec.Command("sh", "-c", `command -v "$0"`, words[0]).Run() != nil {
		return fmt.Errorf("there is no program %s", words[0])
	}
	return nil
}

// literal returns a word without its quotes. An ellipsis replaces each expansion, since nothing runs.
func literal(parts []syntax.WordPart) string {
	var word strings.Builder
	for _, part := range parts {
		switch part := part.(type) {
		case *syntax.Lit:
			word.WriteString(part.Value)
		case *syntax.SglQuoted:
			word.WriteString(part.Value)
		case *syntax.DblQuoted:
			word.WriteString(literal(part.Parts))
		default:
			word.WriteString("…")
		}
	}
	return word.String()
}

// ours checks a command of the workspace's program, which fails on unknown flags even with --help, and whose help names
// each subcommand and mode.
func (c *checker) ours(words []string) error {
	program := "./" + strings.TrimPrefix(words[0], "./")
	command := exec.Command(program, append(slices.Clone(words[1:]), "--help")...)
	command.Dir = repository
	output, err := command.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s --help: %s", strings.Join(words, " "), output)
	}
	for _, word := range words[1:] {
		if bareWord.MatchString(word) && !regexp.MustCompile(`\b`+word+`\b`).Match(output) {
			return fmt.Errorf("the help of %s does not name %q:\n%s", words[0], word, output)
		}
	}
	return nil
}

var bareWord = regexp.MustCompile(`^[a-z][a-z-]*$`)

// help checks the flags of a program that fails on unknown ones even with --help. If the program is not installed, only
// the tests on a cluster check them.
func (c *checker) help(words []string) error {
	program := c.lookUp(words[0])
	if program == "" || len(words) == 1 {
		return nil
	}
	args := slices.Clone(words[1:])
	end := slices.Index(args, "--")
	if end < 0 {
		end = len(args)
	}
	if output, err := exec.Command(program, slices.Insert(args, end, "--help")...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s --help: %s", strings.Join(words, " "), output)
	}
	return nil
}

func (c *checker) lookUp(program string) string {
	for _, folder := range filepath.SplitList(c.path) {
		if found, err := exec.LookPath(filepath.Join(folder, program)); err == nil {
			return found
		}
	}
	return ""
}

func (c *checker) kubectl(words []string) error {
	if err := c.objects(words); err != nil {
		return err
	}
	return c.help(words)
}

func (c *checker) tilt(words []string) error {
	if err := c.objects(words); err != nil {
		return err
	}
	if separator := slices.Index(words, "--"); separator >= 0 {
		for _, word := range words[separator:] {
			name, isFlag := strings.CutPrefix(word, "--")
			if isFlag && name != "" && !regexp.MustCompile(`config\.define_\w+\('`+name+`'`).MatchString(c.sources) {
				return fmt.Errorf("the Tiltfile defines no %s", word)
			}
		}
	}
	return c.help(words)
}

var workload = regexp.MustCompile(`^(?:deploy|deployment|statefulset)s?/(.+)$`)

// objects checks the context, the namespace and the workloads that a command names.
func (c *checker) objects(words []string) error {
	flag := ""
	for _, word := range words {
		name, value, hasValue := strings.Cut(word, "=")
		if !hasValue {
			name, value = flag, word
		}
		known := map[string]map[string]bool{
			"--context": c.contexts, "--namespace": c.namespaces, "-n": c.namespaces,
		}[name]
		if known != nil && !known[value] {
			return fmt.Errorf("%s %s: must be one of %v", name, value, known)
		}
		if match := workload.FindStringSubmatch(word); match != nil && !c.workloads[match[1]] {
			return fmt.Errorf("%s: the manifests have %v", word, c.workloads)
		}
		flag = word
	}
	return nil
}

func (c *checker) make(words []string) error {
	for _, word := range words[1:] {
		if variable, _, isVariable := strings.Cut(word, "="); isVariable {
			if !regexp.MustCompile(`\$\(` + variable + `\)`).MatchString(c.sources) {
				return fmt.Errorf("the Makefile has no variable %s", variable)
			}
		} else if !strings.Contains(c.targets, "  make "+word+" ") {
			return fmt.Errorf("make help lists no %s", word)
		}
	}
	if len(words) == 1 {
		return nil
	}
	command := inFolder(c.t, repository, nil, "make", append([]string{"--dry-run"}, words[1:]...)...)
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("make --dry-run: %s", output)
	}
	return nil
}

// golang checks packages, flags and the names of tests.
func (c *checker) golang(words []string) error {
	folder, args := repository, words[1:]
	if len(args) > 1 && args[0] == "-C" {
		folder, args = filepath.Join(repository, args[1]), args[2:]
	}
	known, err := exec.Command("sh", "-c", "go help build; go help test; go help testflag").Output()
	if err != nil {
		return err
	}
	var tests strings.Builder
	for _, word := range args {
		if !strings.HasPrefix(word, "./") {
			continue
		}
		list := exec.Command("go", "list", "-f", `{{$d := .Dir}}{{range .TestGoFiles}}{{$d}}/{{.}}{{"\n"}}{{end}}`, word)
		list.Dir = folder
		output, err := list.CombinedOutput()
		if err != nil {
			return fmt.Errorf("go list %s: %s", word, output)
		}
		for file := range strings.Lines(string(output)) {
			content, err := os.ReadFile(strings.TrimSpace(file))
			if err != nil {
				return err
			}
			tests.Write(content)
		}
	}
	for i, word := range args {
		if !strings.HasPrefix(word, "-") {
			continue
		}
		name, value, hasValue := strings.Cut(strings.TrimLeft(word, "-"), "=")
		flag := regexp.MustCompile(`(?m)^\t-` + name + `\b|flag\.\w+\("` + name + `"`)
		if !flag.Match(known) && !flag.MatchString(tests.String()) {
			return fmt.Errorf("neither go test nor the packages know the flag -%s", name)
		}
		if name != "run" {
			continue
		}
		if !hasValue {
			value = args[i+1]
		}
		if !regexp.MustCompile(`func Test\w*`+value).MatchString(tests.String()) &&
			!regexp.MustCompile(`func `+value).MatchString(tests.String()) {
			return fmt.Errorf("the packages have no test that matches %s", value)
		}
	}
	return nil
}

// TestQuotedMessagesExist compares the messages in the first column of the troubleshooting table with the code. An
// ellipsis stands for anything.
func TestQuotedMessagesExist(t *testing.T) {
	c := newChecker(t)
	quoted := 0
	for line := range strings.Lines(read(t, "docs/troubleshooting.md")) {
		cells := strings.Split(line, "|")
		if len(cells) < 3 {
			continue
		}
		for _, span := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[1], -1) {
			for part := range strings.SplitSeq(span[1], "…") {
				quoted++
				assert.True(t, strings.Contains(c.sources, strings.TrimSpace(part)),
					"docs/troubleshooting.md: nothing prints %q", span[1])
			}
		}
	}
	assert.Greater(t, quoted, 10)
}
