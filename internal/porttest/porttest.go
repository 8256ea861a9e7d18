// Package porttest finds ports for tests.
package porttest

import (
	"net"

	"github.com/stretchr/testify/require"
)

// Free returns a port of this machine that nothing listens on.
func Free(t require.TestingT) int {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}
