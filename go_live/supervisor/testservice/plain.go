//go:build !socket

package main

import (
	"net"
	"os"
)

func listen() net.Listener {
	listener, err := net.Listen("tcp", os.Getenv("ADDRESS"))
	if err != nil {
		panic(err)
	}
	return listener
}
