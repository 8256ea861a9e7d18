package loop

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/docstest"
)

var hello = service{"hello", "hello", "8080"}

// TestAnotherProject uses go_live in a project outside this repository, made of the two files on go_live's page.
func TestAnotherProject(t *testing.T) {
	long(t)
	root, err := filepath.Abs("../../..")
	require.NoError(t, err)
	ours := func(name string) string {
		content, err := os.ReadFile(filepath.Join(root, name))
		require.NoError(t, err)
		return string(content)
	}
	blocks := func(language string) (found []string) {
		for _, block := range docstest.Pages(t, root)["go_live/README.md"].Blocks {
			if block.Language == language {
				found = append(found, block.Code)
			}
		}
		return found
	}
	programs, tiltfile := blocks("go"), blocks("python")[0]
	require.Len(t, programs, 2)
	require.Contains(t, tiltfile, "file:///path/to/invoices")
	tiltfile = strings.Replace(tiltfile, "/path/to/invoices", root, 1)

	s := newSession(t)
	require.NoError(t, os.Symlink(s.live, s.file(".live")))
	s.save("Tiltfile", tiltfile)
	s.save("main.go", programs[0])
	// As go mod tidy would write it, with the versions that are already downloaded.
	s.save("go.mod", strings.Replace(ours("go.mod"), "module example.com/invoices\n", "module example.com/hello\n", 1))
	s.save("go.sum", ours("go.sum"))
	t.Cleanup(func() { s.removeHello() })
	s.start()
	s.awaitHello("Hello, world!\n")
	pods := s.pods(hello)

	const greeting = `"Hello, world!\n"`
	tried := `"%d; %v; %v\n", os.Getuid(), os.WriteFile("/x", nil, 0o600), os.WriteFile("/live/hello", nil, 0o600)`
	s.save("main.go", strings.NewReplacer(greeting, tried, `"log"`, "\"log\"\n\t\"os\"").Replace(programs[0]))
	s.awaitHello("10001; open /x: read-only file system; open /live/hello: read-only file system\n")

	n := s.log.len()
	s.save("main.go", "this is not Go")
	s.awaitLog(n, "expected 'package'", 1)
	answer, err := s.askHello(pods[0])
	require.NoError(t, err)
	assert.Contains(t, answer, "10001")
	s.save("main.go", strings.Replace(programs[0], "func main() {", "func main() {\n\tpanic(\"no good\")", 1))
	s.awaitLog(n, "ended before it was ready", 1)
	s.awaitHello(answer)

	s.save("main.go", programs[1])
	s.awaitHello("Hello, world!\n")
	s.withoutAGap(pods[0], func() {
		for _, whom := range []string{"moon", "sun", "stars"} {
			s.save("main.go", strings.Replace(programs[1], "world", whom, 1))
			s.awaitHello("Hello, " + whom + "!\n")
		}
		s.save("main.go", strings.Replace(programs[1], "func main() {", "func main() {\n\tpanic(\"no good\")", 1))
		s.awaitLog(n, "ended before it was ready", 2)
	})
	assert.Equal(t, pods[0].Metadata.UID, s.pods(hello)[0].Metadata.UID, "the pod was not replaced")
	assert.Zero(t, s.pods(hello)[0].Status.ContainerStatuses[0].RestartCount)

	for wrong, want := range map[string]string{
		"go_live('nobody', '''":                         "go_live: the manifests have 0 Deployments nobody: one is needed",
		"go_live('hello', folder='x', manifests='''":    "go_live: there is no folder " + s.file("x") + ": ",
		"go_live('hello', container='x', manifests='''": "go_live: the Deployment hello has no container x",
	} {
		s.save("Tiltfile", strings.Replace(tiltfile, "go_live('hello', '''", wrong, 1))
		s.awaitLog(n, want, 1)
	}
	s.save("Tiltfile", tiltfile)
	s.end()
}

// askHello gets the pod's root page.
func (s *session) askHello(p pod) (string, error) {
	said, err := s.get(s.url(hello, p) + "/")
	return string(said), err
}

func (s *session) awaitHello(want string) {
	s.Helper()
	var said string
	require.Eventually(s, func() bool {
		pods := s.pods(hello)
		if len(pods) != 1 {
			return false
		}
		var err error
		said, err = s.askHello(pods[0])
		return err == nil && said == want
	}, enough, pause, "the pod responds with %q; last: %s", want, &said)
}

// withoutAGap fails if a request to the pod fails while do runs.
func (s *session) withoutAGap(p pod, do func()) {
	ctx, cancel := context.WithCancel(s.Context())
	var load sync.WaitGroup
	var answered int
	load.Go(func() {
		for ; ctx.Err() == nil; answered++ {
			answer, err := s.askHello(p)
			if !assert.NoError(s, err) || !assert.Regexp(s, `^Hello, \w+!\n$`, answer) {
				return
			}
		}
	})
	do()
	cancel()
	load.Wait()
	s.Logf("%d requests", answered)
	assert.Greater(s, answered, 100)
}

// removeHello removes the project from the cluster and from the folder that tilt up builds into.
func (s *session) removeHello() {
	s.end()
	down := exec.Command("tilt", "down", "--delete-namespaces", "--context", s.kubeContext)
	down.Dir = s.checkout
	output, err := down.CombinedOutput()
	assert.NoError(s, err, "%s", output)
	s.kubectl("wait", "--for=delete", "namespace/hello", "persistentvolume/live-hello-hello", "--timeout="+enough.String())
	left, err := filepath.Glob(filepath.Join(s.live, "hello*"))
	require.NoError(s, err)
	for _, path := range left {
		require.NoError(s, os.RemoveAll(path))
	}
}
