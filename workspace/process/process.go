// Package process runs other programs: docker, kubectl, go, tilt and so on.
//
// Each program runs in a separate process group, which is terminated when the context of its command is done, so
// that nothing keeps running unnoticed. A long-running task is a [Step], which reports its progress and logs every
// command with its output, so that an operator can repeat it by hand.
package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// grace is how long a program may take to exit after SIGTERM.
const grace = 10 * time.Second

// Command returns a command without standard input. When ctx is done, its whole process group gets SIGTERM, and
// SIGKILL if that is not enough.
func Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, name, args...)
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.Cancel = func() error {
		group := -command.Process.Pid
		time.AfterFunc(grace, func() { _ = syscall.Kill(group, syscall.SIGKILL) })
		return syscall.Kill(group, syscall.SIGTERM)
	}
	command.WaitDelay = grace + time.Second
	return command
}

// Output runs a command and returns its standard output without the trailing newline. An error includes the command
// line and the standard error. Output that the caller has already redirected is left alone.
func Output(command *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	if command.Stdout == nil {
		command.Stdout = &stdout
	}
	if command.Stderr == nil {
		command.Stderr = &stderr
	}
	err := run(command)
	if said := strings.TrimSpace(stderr.String()); err != nil && said != "" {
		err = fmt.Errorf("%w: %s", err, said)
	}
	return strings.TrimRight(stdout.String(), "\r\n"), err
}

// Run is Output for commands whose output is not needed.
func Run(command *exec.Cmd) error {
	_, err := Output(command)
	return err
}

// run runs the command; an error starts with the command line.
func run(command *exec.Cmd) error {
	err := command.Run()
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("%s is not on PATH", command.Args[0])
	}
	if err != nil {
		return fmt.Errorf("%s: %w", Words(command.Args), err)
	}
	return nil
}

// Words returns the arguments as a command line for a shell.
func Words(args []string) string {
	words := make([]string, len(args))
	for i, arg := range args {
		words[i] = Quote(arg)
	}
	return strings.Join(words, " ")
}

// Quote quotes a word for a shell, if necessary.
func Quote(word string) string {
	plain := func(r rune) bool {
		return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-_./:=,@%+~", r)
	}
	if word != "" && strings.IndexFunc(word, func(r rune) bool { return !plain(r) }) < 0 {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// note logs a command, with its working directory and the environment variables that it does not inherit.
func note(log io.Writer, command *exec.Cmd, inherited []string) {
	var words []string
	if command.Dir != "" {
		words = append(words, "cd "+Quote(command.Dir)+" &&")
	}
	has := make(map[string]bool, len(inherited))
	for _, variable := range inherited {
		has[variable] = true
	}
	for _, variable := range command.Env {
		if name, value, _ := strings.Cut(variable, "="); !has[variable] {
			words = append(words, name+"="+Quote(value))
		}
	}
	fmt.Fprintln(log, "$", strings.Join(append(words, Words(command.Args)), " "))
}

// Exists reports whether a program is on PATH.
func Exists(name string) bool {
	_, err := exec.LookPath(name)
	return err == nil
}
