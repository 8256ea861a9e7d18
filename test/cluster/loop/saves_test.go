package loop

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/checkouttest"
)

// TestSaves is one day with one `tilt up`: each step continues where the last one stopped.
func TestSaves(t *testing.T) {
	// With names of services, so that no unit tests run after each save.
	s := tiltUp(t, invoiceApp.name, paymentProvider.name)
	step := func(name string, test func(*session)) {
		if !t.Run(name, func(t *testing.T) {
			inner := *s
			inner.T = t
			test(&inner)
		}) {
			t.FailNow()
		}
	}

	step("a save is live in every replica", func(s *session) {
		s.saveVersion(invoiceApp, "first")
		s.awaitVersion(invoiceApp, 3, "first")
	})

	if testing.Short() {
		return
	}

	step("both services, saved at once, are live", func(s *session) {
		s.saveVersion(invoiceApp, "both")
		s.saveVersion(paymentProvider, "both")
		s.awaitVersion(invoiceApp, 3, "both")
		s.awaitVersion(paymentProvider, 3, "both")
		s.awaitLog(0, " is live in 3 pods ", 3)
	})

	step("20 saves fail no request", func(s *session) {
		pods := s.processes(invoiceApp)
		s.underLoad(func() {
			for i := range 20 {
				s.saveVersion(invoiceApp, strconv.Itoa(i))
				s.awaitVersion(invoiceApp, 3, strconv.Itoa(i))
			}
		})
		for uid := range s.processes(invoiceApp) {
			assert.Contains(s, pods, uid, "no pod was replaced")
		}
	})

	step("an undo in the middle of a build brings the old code back", func(s *session) {
		for round := range 5 {
			undone, done := fmt.Sprint("undone ", round), fmt.Sprint("done ", round)
			s.saveVersion(invoiceApp, undone)
			time.Sleep(time.Duration(round) * 50 * time.Millisecond) // at various moments of the build
			s.saveVersion(invoiceApp, done)
			s.awaitVersion(invoiceApp, 3, done)
			s.saveVersion(invoiceApp, undone)
			s.awaitVersion(invoiceApp, 3, undone)
		}
	})

	step("a save that changes nothing restarts nothing", func(s *session) {
		before, n := s.processes(invoiceApp), s.log.len()
		s.save(invoiceApp.routes(), s.read(invoiceApp.routes())+"\n// Not a word of this is in the program.\n")
		s.awaitLog(n, "nothing has changed in invoice-app", 1)
		s.save("go.mod", s.read("go.mod")+"\n// Nor of this.\n")
		s.awaitLog(n, "nothing has changed in invoice-app", 2)
		s.awaitLog(n, "nothing has changed in payment-provider", 1)
		assert.Equal(s, before, s.processes(invoiceApp))
	})

	step("a save builds only what imports the file", func(s *session) {
		before, n := s.processes(invoiceApp), s.log.len()
		for _, tests := range []string{"invoice-app/api/api_test.go", "internal/contracttest/contracttest.go"} {
			s.save(tests, s.read(tests)+"\n")
		}
		s.saveVersion(paymentProvider, "alone")
		s.awaitVersion(paymentProvider, 3, "alone")
		assert.NotContains(s, s.log.since(n), " in invoice-app")
		assert.NotContains(s, s.log.since(n), "invoice-app is live")
		assert.Equal(s, before, s.processes(invoiceApp))
	})

	step("what tools leave behind builds nothing", func(s *session) {
		before, n := s.processes(invoiceApp), s.log.len()
		for _, name := range []string{
			"invoice-app/__debug_bin1", "invoice-app/api/api.test", "invoice-app/data/invoice-app.db", "internal/new/x.txt",
			"invoice-app/api/.api.go.swp", "invoice-app/api/4913", "invoice-app/api/api.go~", "invoice-app/cover.out",
		} {
			require.NoError(s, os.MkdirAll(filepath.Dir(s.file(name)), 0o755))
			for range 5 {
				s.save(name, time.Now().String())
			}
		}
		s.saveVersion(paymentProvider, "left")
		s.awaitVersion(paymentProvider, 3, "left")
		assert.NotContains(s, s.log.since(n), "--name invoice-app")
		assert.Equal(s, before, s.processes(invoiceApp))
	})

	step("a branch that is switched in the middle of a build is live, and the one before again", func(s *session) {
		git := func(arguments ...string) {
			s.Helper()
			command := exec.Command("git", append([]string{"-c", "user.name=test", "-c", "user.email=test@example.com"},
				arguments...)...)
			command.Dir, command.Env = s.checkout, checkouttest.Environment()
			output, err := command.CombinedOutput()
			require.NoError(s, err, "%s", output)
		}
		commit := func(branch string) {
			git("checkout", "--quiet", "-b", branch)
			git("add", "--all")
			git("commit", "--quiet", "--message", branch)
		}
		git("init", "--quiet")
		s.saveVersion(invoiceApp, "one branch")
		commit("one")
		// Another version, a package in a new folder, a file less and ten files more.
		const shared = "package shared\n\nimport \"fmt\"\n\n// Stringer is what it says.\ntype Stringer = fmt.Stringer\n"
		require.NoError(s, os.MkdirAll(s.file("shared"), 0o755))
		s.save("shared/shared.go", shared)
		for i := range 10 {
			s.save(fmt.Sprintf("shared/more%d.go", i), fmt.Sprintf("package shared\n\nconst More%d = \"%[1]d\"\n", i))
		}
		s.save("invoice-app/api/shared.go", "package api\n\nimport \"example.com/invoices/shared\"\n\n"+
			"var _ shared.Stringer\n")
		s.saveVersion(invoiceApp, "another branch")
		commit("another")
		s.awaitVersion(invoiceApp, 3, "another branch")
		for _, moment := range []time.Duration{0, 50, 200, 400} {
			s.saveVersion(invoiceApp, fmt.Sprint("unfinished ", moment))
			time.Sleep(moment * time.Millisecond) // at various moments of the build
			git("checkout", "--quiet", "--force", "one")
			s.awaitVersion(invoiceApp, 3, "one branch")
			git("checkout", "--quiet", "another")
			s.awaitVersion(invoiceApp, 3, "another branch")
		}
	})

	step("a second tilt up, or ./deploy.sh, is refused", func(s *session) {
		for _, line := range []string{"workspace/run describe --live", s.deploy} {
			said, err := s.in(line)
			require.Error(s, err, line)
			assert.Contains(s, said, "`tilt up` of "+s.checkout, line)
			assert.Contains(s, said, "stop it with Ctrl-C", line)
		}
	})

	step("what something else has deployed is put right by the next save", func(s *session) {
		s.kubectl("--namespace", invoiceApp.namespace, "patch", "deployment", invoiceApp.name, "--type=json", "--patch",
			`[{"op": "replace", "path": "/spec/template/spec/containers/0/command", "value": ["/invoice-app"]}]`)
		n := s.log.len()
		s.saveVersion(invoiceApp, "mine")
		s.awaitVersion(invoiceApp, 3, "mine")
		s.awaitLog(n, "invoice-app runs an image, which something else has deployed: asking Tilt to deploy it again", 1)
		s.awaitLog(n, "invoice-app is live in 3 pods", 1)
	})

	step("a program that does not compile changes nothing", func(s *session) {
		before, n, good := s.processes(invoiceApp), s.log.len(), s.read(invoiceApp.routes())
		s.save(invoiceApp.routes(), good+"\nthis is not Go\n")
		s.awaitLog(n, "syntax error", 1)
		assert.True(s, s.everywhere(invoiceApp, 3, "mine"))
		assert.Equal(s, before, s.processes(invoiceApp))
		s.save(invoiceApp.routes(), good)
		s.saveVersion(invoiceApp, "fixed")
		s.awaitVersion(invoiceApp, 3, "fixed")
	})

	step("a program that crashes at its start never takes over", func(s *session) {
		before, n, good := s.processes(invoiceApp), s.log.len(), s.read(invoiceApp.routes())
		s.save(invoiceApp.routes(), good+"\nfunc init() { panic(\"crashes at its start\") }\n")
		s.awaitLog(n, "panic: crashes at its start", 3)
		s.awaitLog(n, "ended before it was ready", 3)
		assert.True(s, s.everywhere(invoiceApp, 3, "fixed"))
		assert.Equal(s, before, s.processes(invoiceApp))
		s.save(invoiceApp.routes(), good)
		s.saveVersion(invoiceApp, "newest")
		s.awaitVersion(invoiceApp, 3, "newest")
	})

	step("a new pod has the newest code", func(s *session) {
		gone := s.pods(invoiceApp)[0].Metadata
		s.kubectl("--namespace", invoiceApp.namespace, "delete", "pod", gone.Name, "--wait=false")
		require.Eventually(s, func() bool {
			for _, pod := range s.pods(invoiceApp) {
				if pod.Metadata.UID == gone.UID {
					return false
				}
			}
			return true
		}, enough, pause)
		s.awaitVersion(invoiceApp, 3, "newest")

		scale := func(replicas int) {
			s.kubectl("--namespace", invoiceApp.namespace, "scale", "deployment",
				invoiceApp.name, fmt.Sprintf("--replicas=%d", replicas))
			s.awaitVersion(invoiceApp, replicas, "newest")
		}
		scale(4)
		scale(3)
	})

	step("a manifest is applied", func(s *session) {
		const manifest = "k8s/base/invoice-app/kustomization.yaml"
		before := s.processes(invoiceApp)
		s.save(manifest, strings.Replace(s.read(manifest), "LOG_LEVEL=info", "LOG_LEVEL=warn", 1))
		s.awaitOthers(before, "newest")
	})

	step("a migration reaches the database, keeps the data, and fails no request", func(s *session) {
		const schema = "SELECT count(*) FROM information_schema.columns " +
			"WHERE table_name = 'invoices' AND column_name = 'loop_test'"
		rows := s.sql("SELECT count(*) FROM invoices")
		require.NotEqual(s, "0", rows)
		require.Equal(s, "0", s.sql(schema))
		s.Cleanup(func() { // otherwise the next program would find an unknown schema
			s.sql("ALTER TABLE invoices DROP COLUMN IF EXISTS loop_test")
			s.sql("DELETE FROM goose_db_version WHERE version_id = 99")
		})

		before := s.processes(invoiceApp)
		s.underLoad(func() {
			s.save("invoice-app/store/migrations/postgres/00099_loop_test.sql",
				"-- +goose Up\nALTER TABLE invoices ADD COLUMN loop_test text;\n")
			s.awaitOthers(before, "newest")
		})
		assert.Equal(s, "1", s.sql(schema))
		assert.Equal(s, rows, s.sql("SELECT count(*) FROM invoices"))
	})
}

// tilt up NAME runs that service and its dependencies only; tilt down keeps the data.
func TestOneServiceAndDown(t *testing.T) {
	long(t)
	s := tiltUp(t, invoiceApp.name)
	_, tiltPort, _ := strings.Cut(strings.TrimPrefix(s.page, "http://"), ":")
	for resource, want := range map[string]string{
		"invoice-app": "Enabled", invoiceApp.namespace + "-postgres": "Enabled", "passwords": "Enabled",
		"payment-provider": "Disabled", "payment-provider-build": "Disabled",
		paymentProvider.namespace + "-postgres": "Disabled", "test": "Disabled",
	} {
		state, err := exec.Command("tilt", "--port="+tiltPort, "get", "uiresource", resource,
			"--output=jsonpath={.status.disableStatus.state}").CombinedOutput()
		require.NoError(t, err, "%s", state)
		assert.Equal(t, want, string(state), resource)
	}
	s.end()

	everything := func(what string) string {
		return s.kubectl("get", what, "--all-namespaces", "--output=name",
			"--selector=app.kubernetes.io/part-of="+list.Product)
	}
	before := everything("secrets")
	require.Contains(t, before, "secret/postgres-owner")
	down := exec.Command("tilt", "down", "--context", s.kubeContext)
	down.Dir = s.checkout
	output, err := down.CombinedOutput()
	require.NoError(t, err, "%s", output)
	assert.Contains(t, string(output), " "+s.deploy+" --destroy", "how to remove the data as well")
	assert.Empty(t, everything("deployments,statefulsets,services"))
	assert.Equal(t, before, everything("secrets"))
	for _, v := range []service{invoiceApp, paymentProvider} {
		assert.Contains(t, s.kubectl("--namespace", v.namespace, "get", "persistentvolumeclaims", "--output=name"),
			"data-postgres-0")
	}

	tiltUp(t, invoiceApp.name) // works after tilt down
}
