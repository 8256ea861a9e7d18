// watcher runs on the cluster's node and measures when every replica runs a new program. It polls the pods
// directly, without a proxy or Service in between.
//
// Each line of its input has a word for each service: the SHA-256 of the old program, a port and the pods' addresses,
// separated by slashes. They are polled until the next line. When the pods of each service run the same new program,
// the SHA-256 of each program and the time are printed.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"
)

// pause is the time between two polls. It limits the precision of the result, and the watcher's CPU usage.
const pause = 20 * time.Millisecond

func main() {
	lines := make(chan string)
	go func() {
		for input := bufio.NewScanner(os.Stdin); input.Scan(); {
			lines <- input.Text()
		}
		close(lines)
	}()
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	var query []string
	began := time.Now()
	tick := time.NewTicker(pause)
	for {
		select {
		case line, more := <-lines:
			if !more {
				var used syscall.Rusage
				_ = syscall.Getrusage(syscall.RUSAGE_SELF, &used) // cannot fail for the process itself
				cpu := time.Duration(used.Utime.Nano() + used.Stime.Nano())
				fmt.Printf("cpu %.4f\n", cpu.Seconds()/time.Since(began).Seconds())
				return
			}
			query = strings.Fields(line)
		case <-tick.C:
			if running := renewed(client, query); running != nil {
				fmt.Println(strings.Join(running, " "), time.Now().UnixNano())
				query = nil
			}
		}
	}
}

// renewed returns the SHA-256 of each service's new program, or nil if one of them does not run everywhere yet.
func renewed(client *http.Client, query []string) (running []string) {
	for _, service := range query {
		words := strings.Split(service, "/")
		sum := common(client, words[1], words[2:])
		if sum == "" || sum == words[0] {
			return nil
		}
		running = append(running, sum)
	}
	return running
}

// common returns the SHA-256 of the program that all replicas run, or "".
func common(client *http.Client, port string, addresses []string) (running string) {
	for n, address := range addresses {
		response, err := client.Get("http://" + address + ":" + port + "/version")
		if err != nil {
			return ""
		}
		var version struct{ SHA256 string }
		err = json.NewDecoder(response.Body).Decode(&version)
		response.Body.Close()
		if err != nil || n > 0 && version.SHA256 != running {
			return ""
		}
		running = version.SHA256
	}
	return running
}
