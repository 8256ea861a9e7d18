package e2e

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/docstest"
)

// TestPages runs the blocks that the documentation marks as `sh cluster`, on this cluster instead of the default one.
func TestPages(t *testing.T) {
	long(t)
	awaitEverything(t)
	replace := map[string]string{
		"kind-" + list.Product:              kubeContext,
		".build/kubeconfig/" + list.Product: cluster.Kubeconfigs,
		"http://localhost:8081":             invoiceApp,
	}
	ran := 0
	pages := docstest.Pages(t, repository)
	for _, file := range slices.Sorted(maps.Keys(pages)) {
		t.Run(strings.ReplaceAll(file, "/", " "), func(t *testing.T) {
			for _, b := range pages[file].Blocks {
				if fails := b.Is("cluster", "fails"); fails || b.Is("cluster") {
					ran++
					b.Run(t, repository, os.Environ(), replace, fails)
				}
			}
		})
	}
	require.Greater(t, ran, 3, "blocks marked as sh cluster")
}
