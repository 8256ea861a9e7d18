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

// newWorkspace returns a workspace without a cluster, tools or images.
func newWorkspace(t *testing.T) *workspace {
	t.Setenv("PATH", t.TempDir())
	where := paths.Paths{Root: t.TempDir(), Cache: t.TempDir()}
	return &workspace{Paths: where, cwd: "/else where",
		console: &process.Console{Out: &bytes.Buffer{}, Logs: where.Logs(), Every: time.Hour}}
}

func TestUsageErrors(t *testing.T) {
	for _, variable := range []string{"CLUSTER_NAME", "CLUSTER_PRODUCT", "INVOICE_APP_PORT", "REGISTRY_PORT"} {
		t.Setenv(variable, "")
	}
	for name, test := range map[string]struct {
		args     []string
		variable string
		value    string
	}{
		"an argument":     {[]string{"minikube"}, "", ""},
		"two modes":       {[]string{"--stop", "--force"}, "", ""},
		"unknown product": {[]string{"--product", "k3d"}, "", ""},
		"unknown source":  {[]string{"--images", "steal"}, "", ""},
		"port 0":          {nil, "INVOICE_APP_PORT", "0"},
		"port too large":  {nil, "REGISTRY_PORT", "70000"},
		"not a number":    {nil, "REGISTRY_PORT", "80a"},
		"invalid name":    {nil, "CLUSTER_NAME", "minikube-a"},
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

func TestOldNameOfProductFlag(t *testing.T) {
	t.Setenv("CLUSTER_PRODUCT", "")
	for _, flag := range []string{"--product", "--cluster"} {
		command := newWorkspace(t).deployCommand()
		require.NoError(t, command.ParseFlags([]string{flag, "minikube"}))
		assert.Equal(t, "minikube", command.Flag("product").Value.String())
	}
	t.Setenv("CLUSTER_PRODUCT", "minikube")
	assert.Equal(t, "minikube", newWorkspace(t).deployCommand().Flag("product").Value.String())
}

// A button that deletes data must never reach another cluster.
func TestButtonsReachNoOtherCluster(t *testing.T) {
	t.Setenv("CLUSTER_NAME", "a")
	for _, kubeContext := range []string{"production", "kind-b", ""} {
		command := newWorkspace(t).buttonCommand()
		command.SetArgs([]string{"reset-data", kubeContext, "http://localhost:1"})
		assert.ErrorContains(t, command.ExecuteContext(t.Context()), `only, but the current Kubernetes context is`)
	}
}

// File names are relative to the user's working directory, not to the clone.
func TestFile(t *testing.T) {
	w := newWorkspace(t)
	assert.Equal(t, "/else where/images.tar", w.file("images.tar"))
	assert.Equal(t, "/a/b", w.file("/a/b"))
}

func TestEveryCommandHasSummary(t *testing.T) {
	for _, command := range newWorkspace(t).commands() {
		assert.Regexp(t, `^[A-Z].*[^.]$`, command.Short, command.Name())
	}
}

func TestPrintFields(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, printFields(&out, []byte(`{"b": 1, "a": ["x", "y"]}`)))
	assert.Equal(t, "b                 1\na                 [x y]\n", out.String())
}
