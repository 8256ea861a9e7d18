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

// Console is where people read how work goes on.
type Console struct {
	Out   io.Writer
	Logs  string        // the folder of the steps' logs
	Every time.Duration // how often a step that takes long says so
}

// Say writes a line.
func (c *Console) Say(format string, args ...any) {
	fmt.Fprintf(c.Out, format+"\n", args...)
}

// Step is work that takes long enough to be told of.
type Step struct {
	log *os.File

	lock sync.Mutex
	far  func(elapsed time.Duration) string
}

// Step does work. Its label is said at once, how it goes on every now and then, and when it fails the end of its
// log is shown, which is c.Logs/NAME.log. The work is ended by ctx.
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
				return fmt.Errorf("%s: failed: %w\nall of its output is in %s", label, err, log.Name())
			}
			c.Say("  done in %s", Minutes(time.Since(began)))
			return nil
		case <-ticks.C:
			elapsed := time.Since(began)
			c.Say("  %s %s", Minutes(elapsed), step.soFar(elapsed))
		}
	}
}

// Write writes to the step's log.
func (s *Step) Write(data []byte) (int, error) { return s.log.Write(data) }

// Log is the path of the step's log.
func (s *Step) Log() string { return s.log.Name() }

// Run runs a command, which the log shows, with all of its output that is not asked for otherwise.
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

// Output is Run for a command whose standard output is needed.
func (s *Step) Output(command *exec.Cmd) (string, error) {
	var stdout bytes.Buffer
	command.Stdout = &stdout
	err := s.Run(command)
	return strings.TrimRight(stdout.String(), "\r\n"), err
}

// Far sets what says how far the step is, in place of the log's last line.
func (s *Step) Far(far func(elapsed time.Duration) string) {
	s.lock.Lock()
	defer s.lock.Unlock()
	s.far = far
}

func (s *Step) soFar(elapsed time.Duration) string {
	s.lock.Lock()
	far := s.far
	s.lock.Unlock()
	if far != nil {
		return far(elapsed)
	}
	last := []rune(strings.TrimSpace(string(lastLines(s.log.Name(), 1))))
	return string(last[:min(len(last), 100)])
}

// LastLines are the last lines of a text.
func LastLines(text []byte, count int) []byte {
	text = bytes.TrimRight(text, "\n")
	if len(text) == 0 {
		return nil
	}
	lines := bytes.SplitAfter(text, []byte("\n"))
	return append(bytes.Join(lines[max(0, len(lines)-count):], nil), '\n')
}

// lastLines are the last lines of a file.
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

// Minutes is a duration as people read it: 1m05s.
func Minutes(d time.Duration) string {
	seconds := int(d.Seconds())
	return fmt.Sprintf("%dm%02ds", seconds/60, seconds%60)
}
