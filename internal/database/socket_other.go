//go:build !linux

package database

import "net"

// dialer detects a peer that has vanished without closing the connection, by keep-alive.
func dialer() *net.Dialer { return &net.Dialer{KeepAliveConfig: keepAlive} }
