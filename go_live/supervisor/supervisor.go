package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// startPatience is how long a new process may take until it is ready.
	startPatience = 45 * time.Second
	// stopPatience is how long a process may take to end if the next one has to wait for it.
	stopPatience = 10 * time.Second
	// longestPause is the maximum time between two attempts to start a crashed program.
	longestPause = 30 * time.Second
	// silence is the time after which a process counts as ready if it cannot report that.
	silence = time.Second
)

// binary is one version of the program. The open file keeps it available, so that it can be started again after a newer
// one has replaced it in the folder.
type binary struct {
	file *os.File
	info fs.FileInfo
	// The systemd protocols that it supports.
	takesSocket bool
	saysReady   bool

	sum    func() string // returns its SHA-256
	failed string        // why it did not become ready, or ""
}

// process is a running binary, or none if pid is 0.
type process struct {
	pid    int
	binary *binary
	began  time.Time
}

// supervisor holds the state of the loop in serve. No other goroutine may use it.
type supervisor struct {
	command []string     // the program and its arguments
	address string       // the program's address, or ""
	socket  net.Listener // open while all processes accept from it
	ready   chan int     // receives the PID of a process that is ready

	newest   *binary // the one in the folder
	good     *binary // the last one that was ready
	serving  process
	starting process
	ending   map[int]bool // processes that were told to end
	waiting  *binary      // starts once those have ended
	since    time.Time    // when waiting began
	stopping bool

	pause time.Duration // before the next restart
	next  time.Time     // time of the next restart, or zero

	status status
}

// look starts the program in the folder if it is new.
func (s *supervisor) look() {
	info, err := os.Stat(s.command[0])
	if err != nil || s.stopping ||
		s.newest != nil && os.SameFile(info, s.newest.info) && info.ModTime().Equal(s.newest.info.ModTime()) {
		return
	}
	if _, err := os.Stat(s.command[0] + ".restart"); err == nil && s.serving.pid != 0 {
		return // the pod is about to be replaced by one that runs the new program
	}
	newest, err := open(s.command[0])
	if err != nil {
		log.Print(err)
		return
	}
	if s.starting.pid != 0 {
		log.Printf("stopping process %d: there is a newer build", s.starting.pid)
		s.end(&s.starting, syscall.SIGTERM) // it may have accepted a request already
	}
	// The garbage collector closes the previous file once nothing refers to it.
	s.newest = newest
	s.pause = 0
	s.start(s.newest)
}

// open opens a program and detects the protocols that it supports: a program that reads a protocol's variables contains
// their names.
func open(program string) (*binary, error) {
	file, err := os.Open(program)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	b := &binary{file: file, info: info}
	b.sum = sync.OnceValue(func() string {
		sum := sha256.New()
		if _, err := io.Copy(sum, io.NewSectionReader(file, 0, info.Size())); err != nil {
			log.Print(err)
		}
		return fmt.Sprintf("%x", sum.Sum(nil))
	})
	if info.Size() == 0 {
		return b, nil // an empty file can neither be mapped nor started
	}
	text, err := syscall.Mmap(int(file.Fd()), 0, int(info.Size()), syscall.PROT_READ, syscall.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", program, err)
	}
	b.takesSocket = bytes.Contains(text, []byte("LISTEN_FDS"))
	b.saysReady = bytes.Contains(text, []byte("NOTIFY_SOCKET"))
	return b, syscall.Munmap(text)
}

// start starts a process: beside the existing ones if they accept from the supervisor's socket, and otherwise once they
// have ended.
//
// The compiler drops unreachable code, so a program that always crashes at its start may no longer contain the
// protocol's variables. Therefore a program without them does not end one that serves from the socket.
func (s *supervisor) start(b *binary) {
	s.next, s.waiting = time.Time{}, nil
	takesSocket := b.takesSocket && s.address != ""
	if s.socket == nil || !takesSocket && s.serving.pid == 0 {
		s.end(&s.serving, syscall.SIGTERM)
		if len(s.ending) > 0 {
			s.waiting, s.since = b, time.Now()
			return
		}
		if err := s.setSocket(takesSocket); err != nil {
			s.failed(b, err.Error())
			return
		}
	}
	began := time.Now()
	pid, err := s.run(b)
	if err != nil {
		s.failed(b, fmt.Sprintf("the build cannot be started: %v", err))
		return
	}
	s.starting = process{pid, b, began}
}

// setSocket opens or closes the socket.
func (s *supervisor) setSocket(open bool) (err error) {
	switch {
	case open && s.socket == nil:
		s.socket, err = net.Listen("tcp", s.address)
	case !open && s.socket != nil:
		err = s.socket.Close()
		s.socket = nil
	}
	return err
}

// run starts a process, passes it the socket, if there is one, as systemd does, and sends its PID to s.ready once it is
// ready. (os/exec would switch the socket to blocking mode in every process that has it.)
func (s *supervisor) run(b *binary) (int, error) {
	env := append(os.Environ(), fmt.Sprintf("%s=/proc/%d/fd/%d", programVariable, os.Getpid(), b.file.Fd()))
	if s.socket != nil {
		env = append(env, "LISTEN_FDS=1")
	}
	var await func() bool
	switch {
	case s.socket != nil && !b.takesSocket:
		log.Print("this build cannot take over: unlike the serving one, it does not contain LISTEN_FDS. " +
			"Delete the pod to run it")
		await = func() bool { return false }
	case b.saysReady:
		said, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram"}) // the kernel chooses the name
		if err != nil {
			return 0, err
		}
		env = append(env, "NOTIFY_SOCKET="+said.LocalAddr().String())
		await = func() bool { return hearsReady(said) }
	case s.socket == nil && s.address != "":
		await = func() bool { return listens(s.address) }
	default:
		await = func() bool { time.Sleep(silence); return true }
	}
	pid, err := s.fork(env)
	if err != nil {
		return 0, err
	}
	go func() {
		if await() {
			s.ready <- pid
		}
	}()
	return pid, nil
}

func (s *supervisor) fork(env []string) (pid int, err error) {
	fork := func(descriptors ...uintptr) {
		pid, err = syscall.ForkExec("/proc/self/exe", s.command, &syscall.ProcAttr{
			Env: env, Files: append([]uintptr{0, 1, 2}, descriptors...)})
	}
	if s.socket == nil {
		fork()
		return pid, err
	}
	raw, err := s.socket.(*net.TCPListener).SyscallConn()
	if err != nil {
		return 0, err
	}
	if failed := raw.Control(func(fd uintptr) { fork(fd) }); failed != nil {
		return 0, failed
	}
	return pid, err
}

// hearsReady waits until a process sends READY=1, and reports whether it did in time.
func hearsReady(said *net.UnixConn) bool {
	defer said.Close()
	if err := said.SetReadDeadline(time.Now().Add(startPatience)); err != nil {
		return false
	}
	message := make([]byte, 4096)
	for {
		n, err := said.Read(message)
		if err != nil {
			return false
		}
		if slices.Contains(strings.Fields(string(message[:n])), "READY=1") {
			return true
		}
	}
}

// listens waits until the address accepts connections, and reports whether it did in time.
func listens(address string) bool {
	for until := time.Now().Add(startPatience); time.Now().Before(until); time.Sleep(5 * time.Millisecond) {
		if connection, err := net.Dial("tcp", address); err == nil {
			connection.Close()
			return true
		}
	}
	return false
}

// takeOver makes the new process the serving one when it is ready.
func (s *supervisor) takeOver(pid int) {
	if pid != s.starting.pid {
		return
	}
	before := s.serving
	s.serving, s.starting = s.starting, process{}
	s.good = s.serving.binary
	s.good.failed = ""
	s.end(&before, syscall.SIGTERM)
	log.Printf("process %d serves after %s", pid, time.Since(s.serving.began).Round(time.Millisecond))
}

// end sends p a signal to end, if there is such a process.
func (s *supervisor) end(p *process, with syscall.Signal) {
	if p.pid != 0 {
		s.ending[p.pid] = true
		_ = syscall.Kill(p.pid, with) // fails if it has ended
		*p = process{}
	}
}

// reap handles every process that has ended. As PID 1, the supervisor also has to reap orphans.
func (s *supervisor) reap() {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if pid <= 0 {
			break
		}
		switch {
		case s.ending[pid]:
			delete(s.ending, pid)
		case pid == s.starting.pid:
			b := s.starting.binary
			s.starting = process{}
			s.failed(b, fmt.Sprintf("process %d ended before it was ready (%s)", pid, describe(status)))
		case pid == s.serving.pid:
			if time.Since(s.serving.began) > longestPause {
				s.pause = 0
			}
			b := s.serving.binary
			s.serving = process{}
			s.failed(b, fmt.Sprintf("process %d crashed (%s)", pid, describe(status)))
		}
	}
	if s.waiting != nil && len(s.ending) == 0 && !s.stopping {
		s.start(s.waiting)
	}
}

func describe(status syscall.WaitStatus) string {
	if status.Signaled() {
		return status.Signal().String()
	}
	return fmt.Sprintf("exit status %d", status.ExitStatus())
}

// failed logs a failure and its consequence, and schedules a restart if no process is left.
func (s *supervisor) failed(b *binary, what string) {
	b.failed = what
	switch {
	case s.serving.pid != 0:
		log.Printf("%s: process %d keeps serving", what, s.serving.pid)
	case s.starting.pid != 0:
		log.Printf("%s: process %d is starting", what, s.starting.pid)
	default:
		log.Printf("%s: starting again in %s, or at the next build", what, s.pause)
		s.next = time.Now().Add(s.pause)
		s.pause = min(max(2*s.pause, time.Second), longestPause)
	}
}

// checkTime enforces the timeouts and starts a restart that is due.
func (s *supervisor) checkTime() {
	if s.starting.pid != 0 && time.Since(s.starting.began) > startPatience {
		pid, b := s.starting.pid, s.starting.binary
		s.end(&s.starting, syscall.SIGKILL)
		s.failed(b, fmt.Sprintf("process %d was not ready after %s", pid, startPatience))
	}
	if s.waiting != nil && time.Since(s.since) > stopPatience {
		for pid := range s.ending {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	if !s.next.IsZero() && time.Now().After(s.next) && !s.stopping {
		if s.good != nil {
			s.start(s.good)
		} else {
			s.start(s.newest)
		}
	}
}

// stop forwards the signal to the processes.
func (s *supervisor) stop() {
	s.stopping = true
	s.end(&s.serving, syscall.SIGTERM)
	s.end(&s.starting, syscall.SIGTERM)
}
