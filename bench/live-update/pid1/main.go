// pid1 provides what Tilt's live_update needs in an image without a shell. As PID 1 it runs the service
// and restarts it after an update; called as tar, it unpacks the update for Tilt.
package main

import (
	"archive/tar"
	"errors"
	"io"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
)

const (
	updated = "/app/invoice-app"
	shipped = "/invoice-app" // in the image
)

func main() {
	if filepath.Base(os.Args[0]) == "tar" { // tar -C / -x -f -
		if err := unpack(os.Stdin); err != nil {
			log.Fatal(err)
		}
		if err := syscall.Kill(1, syscall.SIGHUP); err != nil {
			log.Fatal(err)
		}
		return
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM)
	for {
		program := updated
		if _, err := os.Stat(program); err != nil {
			program = shipped
		}
		service := exec.Command(program)
		service.Stdout, service.Stderr = os.Stdout, os.Stderr
		if err := service.Start(); err != nil {
			log.Fatal(err)
		}
		received := <-signals
		// Kill the service without a graceful shutdown, because nothing is faster.
		_ = service.Process.Kill()
		_ = service.Wait() // returns an error because it was killed
		if received == syscall.SIGTERM {
			return
		}
	}
}

// unpack replaces each file atomically, because the old one may be running.
func unpack(from io.Reader) error {
	for archive := tar.NewReader(from); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		name := filepath.Join("/", header.Name)
		file, err := os.OpenFile(name+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
		if err != nil {
			return err
		}
		if _, err = io.Copy(file, archive); err != nil {
			return err
		}
		if err = file.Close(); err != nil {
			return err
		}
		if err = os.Rename(name+".new", name); err != nil {
			return err
		}
	}
}
