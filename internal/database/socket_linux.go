package database

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// dialer notices a peer that has vanished without closing: one that is silent
// by keep-alive, one that owes an answer by TCP_USER_TIMEOUT, since keep-alive
// does not run while something sent is unacknowledged.
func dialer() *net.Dialer {
	return &net.Dialer{KeepAliveConfig: keepAlive, Control: func(network, _ string, socket syscall.RawConn) error {
		if network == "unix" {
			return nil
		}
		var failed error
		err := socket.Control(func(fd uintptr) {
			failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(peerSilence/time.Millisecond))
		})
		if err != nil {
			return err
		}
		return failed
	}}
}
