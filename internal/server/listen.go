package server

import (
	"fmt"
	"net"
	"os"
	"strconv"
)

// listen opens address. If the parent process has already opened the listening socket, the
// descriptor that LISTEN_FD names is used instead.
func listen(address string) (net.Listener, error) {
	if os.Getenv("LISTEN_FD") == "" {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			return nil, fmt.Errorf("LISTEN_ADDR=%q cannot be listened on: %w; free the port, or set LISTEN_ADDR to another", address, err)
		}
		return listener, nil
	}
	socket, err := inherited("LISTEN_FD")
	if err != nil {
		return nil, err
	}
	defer socket.Close() // the listener has a copy
	return net.FileListener(socket)
}

// sayReady tells the parent process, if it has set READY_FD, that this process serves the socket
// from now on.
func sayReady() error {
	if os.Getenv("READY_FD") == "" {
		return nil
	}
	pipe, err := inherited("READY_FD")
	if err != nil {
		return err
	}
	defer pipe.Close()
	_, err = pipe.Write([]byte{'\n'})
	return err
}

func inherited(variable string) (*os.File, error) {
	fd, err := strconv.ParseUint(os.Getenv(variable), 10, 31)
	if err != nil {
		return nil, fmt.Errorf("%s must be the number of a file descriptor: %w", variable, err)
	}
	return os.NewFile(uintptr(fd), variable), nil
}
