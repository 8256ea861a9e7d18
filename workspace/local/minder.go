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

// patience is how long a stopped service may take to end. SHUTDOWN_TIMEOUT limits a normal shutdown to 35 s.
const patience = 45 * time.Second

// Mind runs a program until it ends, or stops it at the end of standard input, and returns the program's exit code.
// Standard input is a pipe from the parent, so it ends even if the parent is killed.
func Mind(program string) (int, error) {
	// The terminal is closed, or somebody stops this process instead of the program.
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
		fmt.Fprintf(os.Stderr, "%s did not end within %s, so it is killed\n", program, patience)
		_ = command.Process.Kill()
		err = <-ended
	}
	return exitCode(err)
}

// exitCode returns a program's exit code as a shell reports it.
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
