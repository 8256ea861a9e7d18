// testservice responds with its version, its PID and its arguments. The version is appended to the program's own file.
package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		panic(err)
	}
	marker := []byte("\nversion=")
	version := string(self[bytes.LastIndex(self, marker)+len(marker):])
	switch version {
	case "crash":
		panic("this build is no good")
	case "never ready":
		select {}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	listener := listen()
	answer := func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, version, os.Getpid(), os.Args[1:]) }
	server := &http.Server{Handler: http.HandlerFunc(answer)}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	sayReady()
	<-ctx.Done()
	listener.Close()
	<-served
	time.Sleep(500 * time.Millisecond) // Shutdown drops a request that it finds half read
	_ = server.Shutdown(context.Background())
}
