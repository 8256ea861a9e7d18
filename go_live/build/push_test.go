package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Each update is sent once, and those that a server refused are sent again.
func TestPushUpdates(t *testing.T) {
	folder := t.TempDir()
	saved := time.UnixMilli(1_000_000)
	keep := func(u update) {
		line, err := json.Marshal(u)
		require.NoError(t, err)
		file, err := os.OpenFile(updatesFile(folder), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		require.NoError(t, err)
		defer file.Close()
		_, err = file.Write(append(line, '\n'))
		require.NoError(t, err)
	}
	var mu sync.Mutex
	var bodies []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		bodies = append(bodies, string(body))
		if len(bodies) == 1 {
			http.Error(w, "not yet", http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	received := func() []string {
		mu.Lock()
		defer mu.Unlock()
		return append([]string(nil), bodies...)
	}
	keep(update{Service: "shop", Saved: saved, Wait: 0.25, Build: 0.5, Deliver: 0.75, Total: 1.5})
	keep(update{Service: "shop", Saved: saved.Add(time.Second), Error: "it does not compile"})

	ctx, cancel := context.WithCancel(t.Context())
	var out strings.Builder
	ended := make(chan error, 1)
	go func() { ended <- pushUpdates(ctx, &out, folder, server.URL) }()
	require.Eventually(t, func() bool { return len(received()) == 2 }, time.Minute, 10*time.Millisecond)
	keep(update{Service: "bank", Saved: saved.Add(2 * time.Second), Build: 1, Total: 2})
	require.Eventually(t, func() bool { return len(received()) == 3 }, time.Minute, 10*time.Millisecond)
	cancel()
	require.NoError(t, <-ended)

	first := `go_live_update_seconds{service="shop",stage="wait"} 0.25 1001500
go_live_update_seconds{service="shop",stage="build"} 0.5 1001500
go_live_update_seconds{service="shop",stage="deliver"} 0.75 1001500
go_live_update_seconds{service="shop",stage="total"} 1.5 1001500
`
	assert.Equal(t, []string{first, first, strings.NewReplacer("shop", "bank", "0.25", "0", "0.5", "1", "0.75", "0",
		"1.5", "2", "1001500", "1004000").Replace(first)}, received())
	assert.Contains(t, out.String(), "not yet")
	assert.Equal(t, 1, strings.Count(out.String(), "\n"))
}
