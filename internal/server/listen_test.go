package server

import (
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestASocketIsTakenOver hands a socket to another process of this test, as systemd does, and PID 1 of a pod under
// tilt up.
func TestASocketIsTakenOver(t *testing.T) {
	if os.Getenv("LISTEN_FDS") != "" {
		ctx, stop := signal.NotifyContext(t.Context(), syscall.SIGTERM)
		defer stop()
		require.NoError(t, newServer(io.Discard).Run(ctx, "no address", time.Minute, func() {}))
		return
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	socket, err := listener.(*net.TCPListener).File()
	require.NoError(t, err)
	defer socket.Close()
	said, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: t.TempDir() + "/notify"})
	require.NoError(t, err)
	defer said.Close()

	service := exec.Command("sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, os.Args[0], "-test.run=^"+t.Name()+"$")
	service.Env = append(os.Environ(), "LISTEN_FDS=1", "NOTIFY_SOCKET="+said.LocalAddr().String())
	service.ExtraFiles = []*os.File{socket}
	service.Stdout, service.Stderr = os.Stdout, os.Stderr
	require.NoError(t, service.Start())
	require.NoError(t, said.SetReadDeadline(time.Now().Add(time.Minute)))
	message := make([]byte, 100)
	n, err := said.Read(message)
	assert.NoError(t, err)
	assert.Equal(t, "READY=1", string(message[:n]))
	response, err := http.Get("http://" + listener.Addr().String() + "/livez")
	if assert.NoError(t, err) {
		response.Body.Close()
		assert.Equal(t, http.StatusOK, response.StatusCode)
	}
	require.NoError(t, service.Process.Signal(syscall.SIGTERM))
	require.NoError(t, service.Wait())

	// The socket belongs to the parent, and outlives the server.
	waiting, err := net.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	waiting.Close()
}

// A service that runs in a unit of another's must not fail for that.
func TestNobodyWaitsForItToBeReady(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", t.TempDir()+"/gone")
	_, stop := serve(t, newServer(io.Discard), func() {})
	assert.NoError(t, stop())
}
