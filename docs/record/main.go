// record records a newcomer's first minute: it runs the README's commands in a fresh clone, in two
// terminals, and writes their output, with its timing, as an animated SVG.
//
// usage: go run ./docs/record FILE     (make record)
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// The server runs in the first terminal. Once it has printed ready, the commands run in the second.
const (
	server = "make run"
	ready  = "msg=serving address=127.0.0.1:8081"
)

var commands = []string{
	"curl --silent localhost:8081/invoices/I1",
	"./test.sh >paid.json",
	"curl --silent localhost:8081/invoices/I1",
}

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("usage: go run ./docs/record FILE")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	lines, err := record(ctx)
	if err == nil {
		err = os.WriteFile(os.Args[1], []byte(draw(lines, time.Now())), 0o644)
	}
	if err != nil {
		log.Fatalf("record: %v", err)
	}
}

// line is a line in a terminal, with the time when it appeared.
type line struct {
	terminal int
	text     string
	at       time.Duration
}

func record(ctx context.Context) (lines []line, err error) {
	clone, err := os.MkdirTemp("", "record-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(clone)
	if output, err := exec.CommandContext(ctx, "git", "clone", "--quiet", ".", clone).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("git clone: %w\n%s", err, output)
	}

	began := time.Now()
	var lock sync.Mutex
	show := func(terminal int, text string) {
		lock.Lock()
		defer lock.Unlock()
		lines = append(lines, line{terminal, text, time.Since(began)})
	}
	// start starts a command line, shows its output, and sends each line to printed.
	start := func(ctx context.Context, terminal int, text string) (command *exec.Cmd, printed chan string, err error) {
		show(terminal, prompt+text)
		output, writer, err := os.Pipe()
		if err != nil {
			return nil, nil, err
		}
		defer writer.Close()
		command = exec.CommandContext(ctx, "bash", "-c", text)
		command.Dir, command.Stdout, command.Stderr = clone, writer, writer
		command.Env = slices.DeleteFunc(os.Environ(), func(variable string) bool {
			return strings.HasPrefix(variable, "MAKE") // set by make record for nested makes
		})
		command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // so that Ctrl-C reaches all of its processes
		command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGINT) }
		if err := command.Start(); err != nil {
			return nil, nil, errors.Join(err, output.Close())
		}
		printed = make(chan string)
		go func() {
			defer close(printed)
			defer output.Close()
			for scanner := bufio.NewScanner(output); scanner.Scan(); {
				show(terminal, scanner.Text())
				printed <- scanner.Text()
			}
		}()
		return command, printed, nil
	}

	serving, interrupt := context.WithCancel(ctx)
	defer interrupt()
	running, printed, err := start(serving, 0, server)
	if err != nil {
		return nil, err
	}
	isReady := false
	for text := range printed {
		if isReady = strings.Contains(text, ready); isReady {
			break
		}
	}
	if !isReady {
		return nil, fmt.Errorf("%s: exited before printing %q: %s", server, ready, lines[len(lines)-1].text)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		for range printed {
		}
	}()
	for _, text := range commands {
		command, printed, err := start(ctx, 1, text)
		if err != nil {
			return nil, err
		}
		for range printed {
		}
		if err := command.Wait(); err != nil {
			return nil, fmt.Errorf("%s: %w", text, err)
		}
	}
	lock.Lock()
	recorded := len(lines) // without the server's shutdown
	lock.Unlock()
	interrupt()
	<-served
	_ = running.Wait() // make treats Ctrl-C as a failure
	return lines[:recorded], nil
}
