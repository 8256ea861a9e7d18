// Package process runs other programs: docker, kubectl, go, tilt and what else the workspace is made of.
//
// Each is a process group of its own, which ends with the context of its command: nothing goes on that nobody
// sees. What takes long is a [Step], which says how it goes on, and keeps in a log what was asked of which
// program and what it answered, so that an operator can repeat it by hand.
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

// grace is how long a program may take to end once it was told to.
const grace = 10 * time.Second

// Command prepares a program, which gets no input. When ctx is done, it and all that it has started get SIGTERM,
// and SIGKILL where that does not end it.
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

// Output runs a command and returns what it writes to standard output, without the last line's end. An error has
// the command's words and what it wrote to standard error. What the caller wants to go elsewhere goes there.
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

// Run is Output for a command whose output nobody needs.
func Run(command *exec.Cmd) error {
	_, err := Output(command)
	return err
}

// run runs the command; its error begins with the command's words.
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

// Words are the arguments as a shell would have to be told them.
func Words(args []string) string {
	words := make([]string, len(args))
	for i, arg := range args {
		words[i] = Quote(arg)
	}
	return strings.Join(words, " ")
}

// Quote is a word as a shell would have to be told it.
func Quote(word string) string {
	plain := func(r rune) bool {
		return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-_./:=,@%+~", r)
	}
	if word != "" && strings.IndexFunc(word, func(r rune) bool { return !plain(r) }) < 0 {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// note writes a command to a log, with the folder and the variables that it is run with, where these are its own.
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

// Exists tells whether a program is on PATH.
func Exists(name string) bool {
	_, err := exec.LookPath(name)
	return err == nil
}
