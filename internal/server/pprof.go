//go:build pprof

package server

import (
	"net"
	"net/http"
	_ "net/http/pprof" // adds its handlers to http.DefaultServeMux
	"time"
)

// profiles is where a program with the tag pprof, which only `tilt up` builds, serves its profiles. Nothing reaches it
// from outside the pod but kubectl port-forward.
const profiles = "localhost:6060"

func init() {
	go func() {
		// The program that this one replaces has the port until it has finished its requests.
		for ; ; time.Sleep(100 * time.Millisecond) {
			if listener, err := net.Listen("tcp", profiles); err == nil {
				_ = http.Serve(listener, nil) // until the process ends
			}
		}
	}()
}
