// Package local runs the services on this machine, without a cluster.
package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"example.com/invoices/workspace/paths"
	"example.com/invoices/workspace/process"
	"example.com/invoices/workspace/services"
)

// Services are the services of the clone in the working directory. Their data is in data/.
type Services struct {
	List       services.List
	Ports      map[string]string // by the service's name
	Programs   string            // the folder for the built programs
	Out        io.Writer
	Minder     []string // the command that runs Mind in a separate process
	WithParent bool     // whether they end with this process's parent
}

// Reset deletes the services' data.
func (s Services) Reset() error {
	lock, err := s.lock()
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := os.RemoveAll("data"); err != nil {
		return err
	}
	fmt.Fprintln(s.Out, "data/ is deleted; make run starts over")
	return nil
}

// Run builds the services and runs them until ctx is done.
func (s Services) Run(ctx context.Context) error {
	lock, err := s.lock()
	if err != nil {
		return err
	}
	defer lock.Close()
	for _, service := range s.List.Services {
		if err := free(service.Variable("PORT"), s.Ports[service.Name]); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if s.WithParent {
		go endWithParent(ctx, os.Getppid(), cancel)
	}

	fmt.Fprintln(s.Out, "building (the first time takes a minute or two)")
	if err := os.MkdirAll(s.Programs, 0o755); err != nil {
		return err
	}
	words := []string{"build", "-buildvcs=false", "-o", s.Programs + string(filepath.Separator)}
	for _, name := range s.List.Names() {
		words = append(words, "./"+name)
	}
	build := process.Command(ctx, "go", words...)
	build.Env = append(os.Environ(), "GOWORK="+paths.GoWork("."))
	build.Stderr = os.Stderr
	if err := process.Run(build); err != nil {
		return errors.Join(context.Cause(ctx), err)
	}

	ended := make(chan error, len(s.List.Services))
	var started []io.Closer
	stop := func() {
		for _, service := range started {
			_ = service.Close()
		}
	}
	defer stop()
	for _, service := range s.List.Ordered() {
		running, err := s.start(ended, service)
		if err != nil {
			return err
		}
		started = append(started, running)
	}
	s.sayWhere()

	left := len(started)
	select {
	case <-ended:
		left--
	case <-ctx.Done():
	}
	stop()
	for range left {
		<-ended
	}
	if left < len(started) {
		return errors.New("a service ended unexpectedly (its last lines say why), so all were stopped")
	}
	fmt.Fprintln(s.Out, "all services are stopped; data/ is kept (make reset deletes it)")
	return nil
}

// sayWhere prints the services' URLs.
func (s Services) sayWhere() {
	public := s.List.Public().Name
	where := fmt.Sprintf("%s is at http://localhost:%s/invoices", public, s.Ports[public])
	for _, name := range s.List.Names() {
		if name != public {
			where += fmt.Sprintf(", %s at http://localhost:%s", name, s.Ports[name])
		}
	}
	fmt.Fprintf(s.Out, "%s\npay everything, from another terminal: INVOICE_APP_URL=http://localhost:%s ./test.sh\n",
		where, s.Ports[public])
}

// lock takes the lock that allows one run at a time. Services do not inherit it, so one that outlives its run does not
// hold it.
func (s Services) lock() (*process.Lock, error) {
	lock, err := process.TryLock(filepath.Join("data", "lock"))
	if err != nil {
		return nil, err
	}
	if lock == nil {
		return nil, errors.New("make run is already running with this data: stop it first (Ctrl-C there)")
	}
	lock.KeepToSelf()
	return lock, nil
}

// start starts a service in a separate process group, so that Ctrl-C reaches only this process and each service gets
// one signal. The service is stopped when the returned Closer is closed or this process ends.
func (s Services) start(ended chan<- error, service services.Service) (io.Closer, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer read.Close()
	words := append(s.Minder[:len(s.Minder):len(s.Minder)], filepath.Join(s.Programs, service.Name))
	command := exec.Command(words[0], words[1:]...)
	command.Stdin, command.Stdout, command.Stderr = read, os.Stdout, os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.Env = append(os.Environ(), "LISTEN_ADDR=127.0.0.1:"+s.Ports[service.Name], "LOG_FORMAT=text",
		"SEED_INVOICES=true") // used by invoice-app only
	if service.Database {
		command.Env = append(command.Env, "DATABASE_URL=sqlite:data/"+service.Name+".db")
	}
	for _, callee := range s.List.Callees(service) {
		command.Env = append(command.Env, callee.Variable("URL")+"=http://127.0.0.1:"+s.Ports[callee.Name])
	}
	if err := command.Start(); err != nil {
		write.Close()
		return nil, err
	}
	go func() { ended <- command.Wait() }()
	return write, nil
}

// endWithParent calls end once this process's parent has ended.
func endWithParent(ctx context.Context, parent int, end func()) {
	ticks := time.NewTicker(200 * time.Millisecond)
	defer ticks.Stop()
	for os.Getppid() == parent {
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
		}
	}
	end()
}

// free returns an error that explains what to do if the port cannot be used.
func free(variable, value string) error {
	port, err := strconv.ParseUint(value, 10, 16)
	if err != nil || port == 0 {
		return fmt.Errorf("%s=%s is invalid: must be an integer from 1 to 65535", variable, value)
	}
	connection, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", value), time.Second)
	if err != nil {
		return nil
	}
	connection.Close()
	return fmt.Errorf("port %d is taken by another program: stop it, or choose another port, as in: %s=%d make run",
		port, variable, another(int(port)))
}

// another returns a port that is easy to distinguish from the given one.
func another(port int) int {
	if port > 55535 {
		return port - 10000
	}
	return port + 10000
}
