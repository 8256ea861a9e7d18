package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"log"
	"net"
	"os"
	"syscall"
	"time"
)

const (
	// startPatience is how long a new process may take until it is ready. The
	// services themselves wait half a minute for their database.
	startPatience = 45 * time.Second
	// longestPause is between two tries to start what has crashed.
	longestPause = 30 * time.Second
)

// binary is one version of the program. The open file keeps it, to be started
// again when the folder has a newer one already.
type binary struct {
	file *os.File
	info fs.FileInfo
}

// process runs a binary; its pid is 0 where there is none.
type process struct {
	pid    int
	binary *binary
	began  time.Time
}

// supervisor belongs to the loop in serve, and to no other goroutine.
type supervisor struct {
	program string
	address string   // of the socket
	socket  uintptr  // that the processes accept from
	ready   chan int // a process that has just said so

	newest   *binary // what the folder has
	good     *binary // what has served last
	serving  process
	starting process
	ending   map[int]bool // processes that were told to
	stopping bool

	pause time.Duration // before the next restart
	next  time.Time     // restart; zero if there is to be none
}

// look starts what is in the folder, if it is new.
func (s *supervisor) look() {
	info, err := os.Stat(s.program)
	if err != nil || s.stopping || s.newest != nil && os.SameFile(info, s.newest.info) && info.ModTime().Equal(s.newest.info.ModTime()) {
		return
	}
	file, err := os.Open(s.program)
	if err == nil {
		info, err = file.Stat()
	}
	if err != nil {
		log.Print(err)
		return
	}
	if s.starting.pid != 0 {
		log.Printf("process %d is given up: there is a newer build", s.starting.pid)
		s.end(&s.starting, syscall.SIGKILL)
	}
	// A file that nothing refers to any more is closed by the garbage collector.
	s.newest = &binary{file, info}
	s.pause = 0
	s.start(s.newest)
}

// start starts a process beside the one that is serving.
func (s *supervisor) start(b *binary) {
	s.next = time.Time{}
	began := time.Now()
	pid, err := s.run(b.file)
	if err != nil {
		s.failed(fmt.Sprintf("the build cannot be started: %v", err))
		return
	}
	s.starting = process{pid, b, began}
}

// run gives the process the socket as descriptor 3, and as descriptor 4 a pipe
// on which to say that it is ready. (os/exec would switch the socket to
// blocking mode for every process that has it.)
func (s *supervisor) run(file *os.File) (int, error) {
	said, say, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer say.Close()
	pid, err := syscall.ForkExec(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), file.Fd()), []string{s.program}, &syscall.ProcAttr{
		Env:   append(os.Environ(), "LISTEN_FD=3", "READY_FD=4"),
		Files: []uintptr{0, 1, 2, s.socket, say.Fd()},
	})
	if err != nil {
		said.Close()
		return 0, err
	}
	go func() {
		defer said.Close()
		if n, _ := said.Read(make([]byte, 1)); n == 1 {
			s.ready <- pid
		}
	}()
	return pid, nil
}

// takeOver makes the process that is ready the serving one.
func (s *supervisor) takeOver(pid int) {
	if pid != s.starting.pid {
		return
	}
	ready := time.Now()
	update := s.good != nil && s.starting.binary != s.good
	before := s.serving
	s.serving, s.starting = s.starting, process{}
	s.good = s.serving.binary
	s.end(&before, syscall.SIGTERM)
	if update {
		go s.report(s.serving, ready)
	} else {
		log.Printf("process %d serves", pid)
	}
}

// end tells p to. A process that is not there is left out.
func (s *supervisor) end(p *process, with syscall.Signal) {
	if p.pid != 0 {
		s.ending[p.pid] = true
		_ = syscall.Kill(p.pid, with) // fails if it has ended
		*p = process{}
	}
}

// reap takes note of every process that has ended: PID 1 gets the orphans too.
func (s *supervisor) reap() {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if pid <= 0 {
			return
		}
		switch {
		case s.ending[pid]:
			delete(s.ending, pid)
		case pid == s.starting.pid:
			s.starting = process{}
			s.failed(fmt.Sprintf("process %d ended before it was ready (%s)", pid, describe(status)))
		case pid == s.serving.pid:
			if time.Since(s.serving.began) > longestPause {
				s.pause = 0
			}
			s.serving = process{}
			s.failed(fmt.Sprintf("process %d crashed (%s)", pid, describe(status)))
		}
	}
}

func describe(status syscall.WaitStatus) string {
	if status.Signaled() {
		return status.Signal().String()
	}
	return fmt.Sprintf("exit status %d", status.ExitStatus())
}

// failed says what has happened and what follows from it.
func (s *supervisor) failed(what string) {
	switch {
	case s.serving.pid != 0:
		log.Printf("%s: process %d goes on serving", what, s.serving.pid)
	case s.starting.pid != 0:
		log.Printf("%s: process %d is starting", what, s.starting.pid)
	default:
		log.Printf("%s: starting again in %s, or at the next build", what, s.pause)
		s.next = time.Now().Add(s.pause)
		s.pause = min(max(2*s.pause, time.Second), longestPause)
	}
}

// checkTime does what is due.
func (s *supervisor) checkTime() {
	if s.starting.pid != 0 && time.Since(s.starting.began) > startPatience {
		pid := s.starting.pid
		s.end(&s.starting, syscall.SIGKILL)
		s.failed(fmt.Sprintf("process %d was not ready after %s", pid, startPatience))
	}
	if !s.next.IsZero() && time.Now().After(s.next) && !s.stopping {
		if s.good != nil {
			s.start(s.good)
		} else {
			s.start(s.newest)
		}
	}
}

// stop passes the signal on.
func (s *supervisor) stop() {
	s.stopping = true
	s.end(&s.serving, syscall.SIGTERM)
	s.end(&s.starting, syscall.SIGTERM)
}

// report says where the time of an update went. The builder leaves the time
// when it began as that of a file beside the program.
func (s *supervisor) report(p process, ready time.Time) {
	begun, err := os.Stat(s.program + ".begun")
	if err != nil {
		log.Printf("process %d serves", p.pid)
		return
	}
	answered := s.firstAnswer()
	built := p.binary.info.ModTime()
	log.Printf("updated: compile %s, delivery %s, swap %s, first answer %s (process %d serves)",
		round(built.Sub(begun.ModTime())), round(p.began.Sub(built)), round(ready.Sub(p.began)), round(answered.Sub(ready)), p.pid)
}

func round(d time.Duration) time.Duration { return d.Round(time.Millisecond) }

// firstAnswer asks until an answer is not from a process that is stopping: such
// a one tells its clients to close.
func (s *supervisor) firstAnswer() time.Time {
	for until := time.Now().Add(5 * time.Second); time.Now().Before(until); time.Sleep(time.Millisecond) {
		connection, err := net.Dial("tcp", s.address)
		if err != nil {
			continue
		}
		_ = connection.SetDeadline(until)
		fmt.Fprint(connection, "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
		answer := make([]byte, 4096)
		n, _ := connection.Read(answer)
		connection.Close()
		if n > 0 && !bytes.Contains(answer[:n], []byte("Connection: close")) {
			break
		}
	}
	return time.Now()
}
