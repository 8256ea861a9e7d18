package database

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// dialer detects a peer that has vanished without closing the connection: by keep-alive if the
// connection is idle, and by TCP_USER_TIMEOUT if data is unacknowledged, since keep-alive does not
// run then.
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
