package local

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"
)

// patience is for a service that was told to end: by itself it takes SHUTDOWN_TIMEOUT at most, 20 s.
const patience = 30 * time.Second

// Mind runs a program until it ends, or until standard input does: that is a pipe whose other end is held by a process
// that may be killed without a chance to say so. It returns the program's exit code.
func Mind(program string) (int, error) {
	// A terminal that is closed, or somebody who ends this process and means the program.
	told := make(chan os.Signal, 1)
	signal.Notify(told, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(told)

	runtime.LockOSThread() // for withParent
	defer runtime.UnlockOSThread()
	command := exec.Command(program)
	command.Stdout, command.Stderr = os.Stdout, os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{}
	withParent(command.SysProcAttr)
	if err := command.Start(); err != nil {
		return 0, err
	}
	left := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(left)
	}()
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()

	var err error
	select {
	case err = <-ended:
		return exitCode(err)
	case <-left:
	case <-told:
	}
	_ = command.Process.Signal(syscall.SIGTERM) // fails if it has ended
	select {
	case err = <-ended:
	case <-time.After(patience):
		fmt.Fprintf(os.Stderr, "%s has not ended within %s, so it is killed\n", program, patience)
		_ = command.Process.Kill()
		err = <-ended
	}
	return exitCode(err)
}

// exitCode is a program's as a shell has it.
func exitCode(err error) (int, error) {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return 0, err
	}
	if status := exit.Sys().(syscall.WaitStatus); status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return exit.ExitCode(), nil
}
