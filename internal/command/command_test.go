package command

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/config"
)

// run runs a service with args, and returns its output and what it did.
func run(t *testing.T, args ...string) (out, did string, err error) {
	t.Helper()
	settings := config.New("service")
	settings.Address("LISTEN_ADDR", ":8080", "address to listen on")
	root := New("service", "service does things.\n", settings, slog.Default(), func(context.Context) error {
		did = "serve"
		return nil
	})
	AddMigrate(root, func(_ context.Context, grantTo string) error {
		did = "migrate " + grantTo
		return nil
	})
	var output bytes.Buffer
	root.SetOut(&output)
	root.SetArgs(args)
	err = root.ExecuteContext(t.Context())
	return output.String(), did, err
}

func TestCommands(t *testing.T) {
	t.Chdir(t.TempDir())
	for args, want := range map[string]string{
		"": "serve", "serve": "serve", "migrate": "migrate ", "migrate --grant-to me": "migrate me",
	} {
		_, did, err := run(t, strings.Fields(args)...)
		require.NoError(t, err, args)
		assert.Equal(t, want, did, args)
	}
	for want, args := range map[string][]string{
		`unknown command "pay"`:    {"pay"},
		`unknown command "now"`:    {"migrate", "now"},
		`unknown command "me"`:     {"serve", "me"},
		"unknown flag: --no-such":  {"migrate", "--no-such"},
		"unknown flag: --grant-to": {"--grant-to", "me"},
	} {
		_, did, err := run(t, args...)
		assert.ErrorContains(t, err, want, "%q", args)
		assert.Empty(t, did)
	}
}

func TestInvalidSettingsStopEverythingButHelp(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("LISTEN_ADDR", "wrong")
	for _, args := range [][]string{{}, {"serve"}, {"migrate"}} {
		_, did, err := run(t, args...)
		assert.ErrorContains(t, err, `LISTEN_ADDR is "wrong"`)
		assert.Empty(t, did)
	}
	for _, args := range [][]string{{"help"}, {"--help"}, {"-h"}, {"migrate", "--help"}} {
		out, did, err := run(t, args...)
		require.NoError(t, err, "%q", args)
		assert.Regexp(t, `^service does things\.\n\nVariables .*\n +LISTEN_ADDR +:8080 +address to listen on\n$`, out)
		assert.Empty(t, did)
	}
}

// Main ends the process, so another one runs it.
func TestMainReportsErrors(t *testing.T) {
	if os.Getenv("RUN_MAIN") != "" {
		os.Args = []string{"service", "pay"}
		Main(New("service", "", config.New("service"), slog.Default(), func(context.Context) error { return nil }))
		return
	}
	program := exec.Command(os.Args[0], "-test.run=^TestMainReportsErrors$")
	program.Env = append(os.Environ(), "RUN_MAIN=yes")
	out, err := program.CombinedOutput()
	assert.Equal(t, "service: unknown command \"pay\" for \"service\"\n", string(out))
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	assert.Equal(t, 1, exit.ExitCode())
}
