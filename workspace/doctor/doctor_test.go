package doctor

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/workspace/cluster"
	"example.com/invoices/workspace/paths"
	"example.com/invoices/workspace/process"
	"example.com/invoices/workspace/processtest"
	"example.com/invoices/workspace/services"
)

func TestMain(m *testing.M) { processtest.Main(m) }

// fakeDocker installs a Docker with the given responses to docker info and docker run.
func fakeDocker(t *testing.T, info, run processtest.Answer) {
	t.Helper()
	processtest.Put(t, "docker", func(call processtest.Call) processtest.Answer {
		line := strings.Join(call.Args, " ")
		switch {
		case strings.HasPrefix(line, "info --format {{json"):
			return info
		case strings.HasPrefix(line, "run"):
			return run
		case strings.HasPrefix(line, "container inspect"):
			return processtest.Answer{Stderr: "No such container", Code: 1}
		}
		return processtest.Answer{Stdout: "something\n"}
	})
}

var usual = processtest.Answer{
	Stdout: `{"MemTotal": 25769803776, "Driver": "overlay2", "SecurityOptions": ["name=seccomp"]}`,
}

func examined(t *testing.T, product string) (string, error) {
	t.Helper()
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	root := t.TempDir()
	list, err := services.Read("../..")
	require.NoError(t, err)
	where := paths.Paths{Root: root, Cache: t.TempDir(), Services: list}
	c, err := cluster.New(where, product, "a")
	require.NoError(t, err)
	var out bytes.Buffer
	err = Examine(t.Context(), &out, where, c)
	return out.String(), err
}

func TestUnsuitableMachine(t *testing.T) {
	for name, test := range map[string]struct {
		product   string
		info, run processtest.Answer
		found, do string
	}{
		"another machine's Docker": {"kind", usual, processtest.Answer{Stdout: "other\n"},
			"Docker runs on another machine, or has no access to it (snap)", "docker context use default"},
		"a folder that is not shared": {"kind", usual, processtest.Answer{Stderr: "mounts denied", Code: 125},
			"mounts denied", "File sharing"},
		"remapped users": {"minikube",
			processtest.Answer{Stdout: `{"MemTotal": 25769803776, "SecurityOptions": ["name=userns"]}`},
			processtest.Answer{}, "userns-remap", "./deploy.sh --product kind"},
	} {
		t.Run(name, func(t *testing.T) {
			fakeDocker(t, test.info, test.run)
			said, err := examined(t, test.product)
			require.EqualError(t, err, "deploying will fail: see above")
			assert.Contains(t, said, test.found)
			assert.Contains(t, said, test.do)
			assert.Contains(t, said, "BAD")
		})
	}
}

func TestDockerIsMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	said, err := examined(t, "kind")
	require.Error(t, err)
	assert.Contains(t, said, "docker is not on PATH")
}

func TestDockerPermissionDenied(t *testing.T) {
	processtest.Put(t, "docker", func(processtest.Call) processtest.Answer {
		return processtest.Answer{
			Stderr: "Got permission denied while trying to connect to the Docker daemon socket", Code: 1}
	})
	said, err := examined(t, "kind")
	require.Error(t, err)
	assert.Contains(t, said, `sudo usermod --append --groups docker "$USER"`)
	assert.Equal(t, 1, strings.Count(said, "BAD"), "the other checks need Docker:\n%s", said)
}

func TestNotes(t *testing.T) {
	root := t.TempDir()
	list, err := services.Read("../..")
	require.NoError(t, err)
	where := paths.Paths{Root: root, Cache: t.TempDir(), Services: list}
	c, err := cluster.New(where, "kind", "a")
	require.NoError(t, err)
	fakeDocker(t, processtest.Answer{Stdout: `{"MemTotal": 2147483648, "SecurityOptions": ["name=rootless"]}`},
		processtest.Answer{})
	folder := t.TempDir()
	t.Setenv("DOCKER_CONFIG", folder)
	config := filepath.Join(folder, "config.json")
	require.NoError(t, os.WriteFile(config, []byte(`{"credsStore": "desktop"}`), 0o600))

	var out bytes.Buffer
	console := &process.Console{Out: &out, Logs: t.TempDir(), Every: time.Hour}
	require.NoError(t, Quick(t.Context(), console, where, c), "notes are not errors")
	assert.Contains(t, out.String(), config+" refers to docker-credential-desktop, which is not on PATH")
	assert.Contains(t, out.String(), "https://kind.sigs.k8s.io/docs/user/rootless")
	assert.Contains(t, out.String(), "give Docker's virtual machine more memory")
}
