// Package porttest finds ports for tests.
package porttest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"

	"github.com/stretchr/testify/require"
)

var (
	mu       sync.Mutex
	reserved []net.PacketConn // sockets that keep the ports of this process from others that call Free
)

// Free returns a port of this machine that nothing listens on. Nobody else gets it while this process runs, even if
// nothing listens on it for a while: no other caller of Free, and none of the connections and listeners for which the
// kernel chooses the port, since it chooses from 32768 on, or on macOS from 49152 on.
func Free(t require.TestingT) int {
	mu.Lock()
	defer mu.Unlock()
	for range 1000 {
		port := 11_000 + rand.IntN(19_000)
		address := fmt.Sprint("127.0.0.1:", port)
		mine, err := net.ListenPacket("udp", address)
		if err != nil {
			continue
		}
		listener, err := net.Listen("tcp", address)
		if err != nil {
			mine.Close()
			continue
		}
		listener.Close()
		reserved = append(reserved, mine)
		return port
	}
	require.FailNow(t, "no port from 11000 to 29999 is free")
	return 0
}
