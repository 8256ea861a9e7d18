package server

import (
	"errors"
	"fmt"
	"net"

	"github.com/coreos/go-systemd/v22/activation"
)

// listen opens address. A process that is handed an open socket, in the way of
// systemd's socket activation, accepts from that one.
func listen(address string) (net.Listener, error) {
	inherited, err := activation.Listeners()
	if err != nil {
		return nil, err
	}
	if len(inherited) > 0 {
		if inherited[0] == nil {
			return nil, errors.New("LISTEN_FDS: descriptor 3 is not a listening socket")
		}
		return inherited[0], nil
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("LISTEN_ADDR=%q cannot be listened on: %w; free the port, or set LISTEN_ADDR to another",
			address, err)
	}
	return listener, nil
}
