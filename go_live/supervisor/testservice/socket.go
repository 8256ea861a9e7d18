//go:build socket

package main

import (
	"net"

	"github.com/coreos/go-systemd/v22/activation"
)

func listen() net.Listener {
	listeners, err := activation.Listeners()
	if err != nil {
		panic(err)
	}
	return listeners[0]
}
