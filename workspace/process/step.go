package process

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Console reports progress to the user.
type Console struct {
	Out   io.Writer
	Logs  string        // the folder for the logs of steps
	Every time.Duration // how often a step reports its progress
}

// Say writes a line.
func (c *Console) Say(format string, args ...any) {
	fmt.Fprintf(c.Out, format+"\n", args...)
}

// Step is a task that takes long enough to need progress reports.
type Step struct {
	log *os.File

	lock     sync.Mutex
	progress func(elapsed time.Duration) string
}

// Step runs work as a step. It prints the label first, then the progress every c.Every, and the end of the step's
// log, c.Logs/NAME.log, if the work fails. The work has to end when ctx is done.
func (c *Console) Step(ctx context.Context, label, name string, work func(context.Context, *Step) error) error {
	if err := os.MkdirAll(c.Logs, 0o755); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(c.Logs, name+".log"))
	if err != nil {
		return err
	}
	defer log.Close()

	c.Say("%s ...", label)
	began := time.Now()
	step := &Step{log: log}
	done := make(chan error, 1)
	go func() { done <- work(ctx, step) }()
	ticks := time.NewTicker(c.Every)
	defer ticks.Stop()
	for {
		select {
		case err := <-done:
			switch {
			case ctx.Err() != nil:
				return context.Cause(ctx)
			case err != nil:
				_, _ = c.Out.Write(lastLines(log.Name(), 30))
				return fmt.Errorf("%s: failed: %w\nsee the full log: %s", label, err, log.Name())
			}
			c.Say("  done in %s", Minutes(time.Since(began)))
			return nil
		case <-ticks.C:
			elapsed := time.Since(began)
			c.Say("  %s %s", Minutes(elapsed), step.status(elapsed))
		}
	}
}

// Write writes to the step's log.
func (s *Step) Write(data []byte) (int, error) { return s.log.Write(data) }

// Log returns the path of the step's log.
func (s *Step) Log() string { return s.log.Name() }

// Run runs a command and logs it, with any output that the caller has not redirected.
func (s *Step) Run(command *exec.Cmd) error {
	note(s.log, command, os.Environ())
	if command.Stdout == nil {
		command.Stdout = s.log
	}
	if command.Stderr == nil {
		command.Stderr = s.log
	}
	return run(command)
}

// Output is Run for commands whose standard output is needed.
func (s *Step) Output(command *exec.Cmd) (string, error) {
	var stdout bytes.Buffer
	command.Stdout = &stdout
	err := s.Run(command)
	return strings.TrimRight(stdout.String(), "\r\n"), err
}

// SetProgress sets the function that describes the step's progress, in place of the last line of its log.
func (s *Step) SetProgress(progress func(elapsed time.Duration) string) {
	s.lock.Lock()
	defer s.lock.Unlock()
	s.progress = progress
}

func (s *Step) status(elapsed time.Duration) string {
	s.lock.Lock()
	progress := s.progress
	s.lock.Unlock()
	if progress != nil {
		return progress(elapsed)
	}
	last := []rune(strings.TrimSpace(string(lastLines(s.log.Name(), 1))))
	return string(last[:min(len(last), 100)])
}

// LastLines returns the last lines of a text.
func LastLines(text []byte, count int) []byte {
	text = bytes.TrimRight(text, "\n")
	if len(text) == 0 {
		return nil
	}
	lines := bytes.SplitAfter(text, []byte("\n"))
	return append(bytes.Join(lines[max(0, len(lines)-count):], nil), '\n')
}

// lastLines returns the last lines of a file.
func lastLines(path string, count int) []byte {
	const enough = 64 << 10
	file, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer file.Close()
	if info, err := file.Stat(); err == nil && info.Size() > enough {
		_, _ = file.Seek(-enough, io.SeekEnd)
	}
	data, _ := io.ReadAll(file)
	return LastLines(data, count)
}

// Minutes formats a duration in minutes and seconds: 1m05s.
func Minutes(d time.Duration) string {
	seconds := int(d.Seconds())
	return fmt.Sprintf("%dm%02ds", seconds/60, seconds%60)
}
