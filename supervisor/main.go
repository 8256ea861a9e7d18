// supervisor is PID 1 of the services' pods under `tilt up`, and of no other.
//
//	supervisor PROGRAM           serve: run PROGRAM, and what replaces it
//	supervisor PROGRAM ARG...    become PROGRAM with these arguments
//
// PROGRAM is in a folder that the developer's machine shares with the pod. When
// it is replaced there, the new one is started beside the old one, on the same
// listening socket, which is the supervisor's own. Once the new one says that
// it is ready, the old one gets SIGTERM and finishes what it has in hand. A
// build that fails before it is ready never takes over.
package main

import (
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("supervisor: ")
	if len(os.Args) < 2 {
		log.Fatal("usage: supervisor PROGRAM [ARG...]")
	}
	program := os.Args[1]
	var err error
	if len(os.Args) > 2 {
		err = syscall.Exec(program, os.Args[1:], os.Environ())
	} else {
		err = serve(program, os.Getenv("LISTEN_ADDR"))
	}
	if err != nil {
		log.Fatalf("%s: %v", program, err)
	}
}

// serve returns when a signal has ended it and every process of its.
func serve(program, address string) error {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGCHLD)

	s := &supervisor{program: program, ready: make(chan int), ending: map[int]bool{}}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("LISTEN_ADDR: %w", err)
	}
	defer listener.Close()
	s.address = listener.Addr().String()
	raw, err := listener.(*net.TCPListener).SyscallConn()
	if err != nil {
		return err
	}
	// Nothing closes the listener while the loop below runs.
	if err := raw.Control(func(fd uintptr) { s.socket = fd }); err != nil {
		return err
	}

	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer watcher.Close()
	if err := watcher.Add(filepath.Dir(program)); err != nil {
		return err
	}
	// Where Docker runs in a virtual machine, the folder's events may not come
	// through: a look each second does.
	tick := time.NewTicker(time.Second)
	defer tick.Stop()

	for s.look(); !s.stopping || len(s.ending) > 0; {
		select {
		case event := <-watcher.Events:
			if event.Name == program {
				s.look()
			}
		case err := <-watcher.Errors:
			log.Print(err)
		case <-tick.C:
			s.look()
			s.checkTime()
		case pid := <-s.ready:
			s.takeOver(pid)
		case received := <-signals:
			if received == syscall.SIGCHLD {
				s.reap()
			} else {
				s.stop()
			}
		}
	}
	return nil
}
