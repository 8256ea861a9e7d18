//go:build !linux

package database

import "net"

// dialer notices a peer that has vanished without closing, by keep-alive.
func dialer() *net.Dialer { return &net.Dialer{KeepAliveConfig: keepAlive} }
