package main

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/workspace/paths"
	"example.com/invoices/workspace/process"
)

// newWorkspace is one whose cluster is not there, nor anything else.
func newWorkspace(t *testing.T) *workspace {
	t.Setenv("PATH", t.TempDir())
	where := paths.Paths{Root: t.TempDir(), Cache: t.TempDir()}
	return &workspace{Paths: where, cwd: "/else where",
		console: &process.Console{Out: &bytes.Buffer{}, Logs: where.Logs(), Every: time.Hour}}
}

// A call that is not understood does nothing but say how it is used.
func TestCallsThatAreNotUnderstood(t *testing.T) {
	for _, variable := range []string{"CLUSTER_NAME", "CLUSTER_PRODUCT", "INVOICE_APP_PORT", "REGISTRY_PORT"} {
		t.Setenv(variable, "")
	}
	for name, test := range map[string]struct {
		args     []string
		variable string
		value    string
	}{
		"an argument":      {[]string{"minikube"}, "", ""},
		"two at once":      {[]string{"--stop", "--force"}, "", ""},
		"another product":  {[]string{"--product", "k3d"}, "", ""},
		"another way":      {[]string{"--images", "steal"}, "", ""},
		"no port":          {nil, "INVOICE_APP_PORT", "0"},
		"a port too large": {nil, "REGISTRY_PORT", "70000"},
		"no number":        {nil, "REGISTRY_PORT", "80a"},
		"no name":          {nil, "CLUSTER_NAME", "minikube-a"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorkspace(t)
			if test.variable != "" {
				t.Setenv(test.variable, test.value)
			}
			command := w.deployCommand()
			command.SilenceErrors, command.SilenceUsage = true, true
			command.SetArgs(append([]string{}, test.args...))
			var usage usageError
			require.ErrorAs(t, command.ExecuteContext(t.Context()), &usage)
		})
	}
}

func TestTheProductsOldFlagIsTheSame(t *testing.T) {
	t.Setenv("CLUSTER_PRODUCT", "")
	for _, flag := range []string{"--product", "--cluster"} {
		command := newWorkspace(t).deployCommand()
		require.NoError(t, command.ParseFlags([]string{flag, "minikube"}))
		assert.Equal(t, "minikube", command.Flag("product").Value.String())
	}
	t.Setenv("CLUSTER_PRODUCT", "minikube")
	assert.Equal(t, "minikube", newWorkspace(t).deployCommand().Flag("product").Value.String())
}

// A file that the user names is in the user's folder, not in the clone.
func TestFilesAreTheUsers(t *testing.T) {
	w := newWorkspace(t)
	assert.Equal(t, "/else where/images.tar", w.file("images.tar"))
	assert.Equal(t, "/a/b", w.file("/a/b"))
}

func TestEveryCommandSaysWhatItIsFor(t *testing.T) {
	for _, command := range newWorkspace(t).commands() {
		assert.Regexp(t, `^[A-Z].*[^.]$`, command.Short, command.Name())
	}
}

func TestPrintFields(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, printFields(&out, []byte(`{"b": 1, "a": ["x", "y"]}`)))
	assert.Equal(t, "b                 1\na                 [x y]\n", out.String())
}
