//go:build cluster

package loop

import (
	"fmt"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestSaves is one day with one `tilt up`: each part goes on where the one
// before has stopped.
func TestSaves(t *testing.T) {
	s := tiltUp(t)
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

	step("both services, saved at once, are live", func(s *session) {
		s.saveVersion(invoiceApp, "both")
		s.saveVersion(paymentProvider, "both")
		s.awaitVersion(invoiceApp, 3, "both")
		s.awaitVersion(paymentProvider, 3, "both")
		s.awaitLog(0, "updated: compile ", 6)
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

	step("a save that changes nothing restarts nothing", func(s *session) {
		before, n := s.processes(invoiceApp), s.log.len()
		s.save(invoiceApp.handler(), s.read(invoiceApp.handler())+"\n// Not a word of this is in the program.\n")
		s.awaitLog(n, "nothing has changed in invoice-app", 1)
		s.save("invoice-app/api/api_test.go", s.read("invoice-app/api/api_test.go")+"\n")
		s.saveVersion(paymentProvider, "alone")
		s.awaitVersion(paymentProvider, 3, "alone")
		assert.Equal(s, before, s.processes(invoiceApp))
	})

	step("what does not compile changes nothing", func(s *session) {
		before, n, good := s.processes(invoiceApp), s.log.len(), s.read(invoiceApp.handler())
		s.save(invoiceApp.handler(), good+"\nthis is not Go\n")
		s.awaitLog(n, "syntax error", 1)
		assert.True(s, s.everywhere(invoiceApp, 3, "19"))
		assert.Equal(s, before, s.processes(invoiceApp))
		s.save(invoiceApp.handler(), good)
		s.saveVersion(invoiceApp, "mended")
		s.awaitVersion(invoiceApp, 3, "mended")
	})

	step("what crashes at its start never takes over", func(s *session) {
		before, n, good := s.processes(invoiceApp), s.log.len(), s.read(invoiceApp.handler())
		s.save(invoiceApp.handler(), good+"\nfunc init() { panic(\"crashes at its start\") }\n")
		s.awaitLog(n, "panic: crashes at its start", 3)
		s.awaitLog(n, "ended before it was ready", 3)
		assert.True(s, s.everywhere(invoiceApp, 3, "mended"))
		assert.Equal(s, before, s.processes(invoiceApp))
		s.save(invoiceApp.handler(), good)
		s.saveVersion(invoiceApp, "newest")
		s.awaitVersion(invoiceApp, 3, "newest")
	})

	step("a pod that is new has the newest code", func(s *session) {
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
			s.kubectl("--namespace", invoiceApp.namespace, "scale", "deployment", invoiceApp.name, fmt.Sprintf("--replicas=%d", replicas))
			s.awaitVersion(invoiceApp, replicas, "newest")
		}
		scale(4)
		scale(3)
	})

	step("a changed migration restarts the pods, and fails no request", func(s *session) {
		const migration = "invoice-app/store/migrations/postgres/00001_invoices.sql"
		before := s.processes(invoiceApp)
		s.underLoad(func() {
			s.save(migration, s.read(migration)+"\n-- A comment: the schema stays as it is.\n")
			require.Eventually(s, func() bool {
				for _, pod := range s.pods(invoiceApp) {
					if _, old := before[pod.Metadata.UID]; old {
						return false
					}
				}
				return s.everywhere(invoiceApp, 3, "newest")
			}, enough, pause)
		})
	})
}
