// supervisor is PID 1 in the pods that go_live runs. It is not used in production.
//
//	supervisor [--listen ADDRESS] [--status ADDRESS] PROGRAM [ARGUMENT...]
//
// PROGRAM is in a folder that the developer's machine shares with the pod. When it is replaced there, the new program
// takes over.
//
// A program that supports systemd's socket activation is started beside the old one, on the same listening socket,
// which belongs to the supervisor. Once the new one is ready, the old one gets SIGTERM and finishes its requests. A
// build that fails before it is ready never takes over.
//
// Any other program opens ADDRESS itself, so the old one has to end first.
package main

import (
	"errors"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("supervisor: ")
	if os.Getenv(programVariable) != "" {
		log.Fatal(becomeProgram())
	}
	address := flag.String("listen", "", "the `ADDRESS` that the program serves; empty for a program that serves none")
	status := flag.String("status", "", "the `ADDRESS` at which the supervisor says what it runs")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: supervisor [--listen ADDRESS] [--status ADDRESS] PROGRAM [ARGUMENT...]")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() == 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := serve(flag.Args(), *address, *status); err != nil {
		log.Fatalf("%s: %v", flag.Arg(0), err)
	}
}

// programVariable names the file that a new process executes.
const programVariable = "SUPERVISOR_PROGRAM"

// becomeProgram replaces this process with the program, so that LISTEN_PID can be its own PID.
func becomeProgram() error {
	program := os.Getenv(programVariable)
	os.Unsetenv(programVariable)
	if os.Getenv("LISTEN_FDS") != "" {
		os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
	}
	return fmt.Errorf("%s: %w", os.Args[0], syscall.Exec(program, os.Args, os.Environ()))
}

// serve returns after a signal, once all processes have ended.
func serve(command []string, address, status string) error {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGCHLD)

	program := command[0]
	s := &supervisor{command: command, address: address, ready: make(chan int), ending: map[int]bool{}}
	s.status.changed = make(chan struct{})
	if status != "" {
		go func() { log.Fatal(http.ListenAndServe(status, &s.status)) }()
	}
	// inotify fails if the node's programs use it up. If Docker runs in a virtual machine, the folder's events may not
	// arrive. So look every second as well.
	var events <-chan fsnotify.Event
	var failures <-chan error
	if watcher, err := watch(filepath.Dir(program)); err != nil {
		log.Printf("a new build is noticed up to a second later: %v", err)
	} else {
		defer watcher.Close()
		events, failures = watcher.Events, watcher.Errors
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()

	for s.look(); !s.stopping || len(s.ending) > 0; {
		s.status.publish(s.serving.binary, s.newest)
		select {
		case event := <-events:
			if event.Name == program {
				s.look()
			}
		case err := <-failures:
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

func watch(folder string) (*fsnotify.Watcher, error) {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	if err := watcher.Add(folder); err != nil {
		return nil, errors.Join(fmt.Errorf("inotify: watch %s: %w", folder, err), watcher.Close())
	}
	return watcher, nil
}
