package server

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// pass sets the environment variable to a new descriptor of file, as a child process would inherit
// it.
func pass(t *testing.T, variable string, file *os.File) {
	t.Helper()
	fd, err := syscall.Dup(int(file.Fd()))
	require.NoError(t, err)
	t.Setenv(variable, strconv.Itoa(fd))
}

func TestListeningSocketIsInherited(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	socket, err := listener.(*net.TCPListener).File()
	require.NoError(t, err)
	defer socket.Close()
	said, say, err := os.Pipe()
	require.NoError(t, err)
	defer said.Close()
	pass(t, "LISTEN_FD", socket)
	pass(t, "READY_FD", say)
	require.NoError(t, say.Close())

	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- newServer(io.Discard).Run(ctx, "no address", time.Second, func() {}) }()
	word, err := io.ReadAll(said)
	require.NoError(t, err)
	assert.Len(t, word, 1)
	response, err := http.Get("http://" + listener.Addr().String() + "/livez")
	require.NoError(t, err)
	response.Body.Close()
	assert.Equal(t, http.StatusOK, response.StatusCode)
	cancel()
	require.NoError(t, <-ended)

	// The socket belongs to the parent, and outlives the server.
	waiting, err := net.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	waiting.Close()
}

func TestInvalidDescriptorsAreNamed(t *testing.T) {
	run := func() error { return newServer(io.Discard).Run(t.Context(), "127.0.0.1:0", time.Second, func() {}) }
	t.Setenv("READY_FD", "ready")
	assert.ErrorContains(t, run(), "READY_FD")
	t.Setenv("LISTEN_FD", "-1")
	assert.ErrorContains(t, run(), "LISTEN_FD")
}
