package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

const (
	pushEvery   = 2 * time.Second
	pushTimeout = 5 * time.Second
)

// pushUpdates sends the updates in a folder, and each later one, to a URL that takes Prometheus' text format with
// timestamps, until ctx is done. What could not be sent is sent later.
func pushUpdates(ctx context.Context, out io.Writer, folder, url string) error {
	var pushed time.Time // when the save of the newest update that was sent happened
	failed := ""
	for {
		updates, err := readUpdates(folder)
		if err != nil {
			return err
		}
		text, newest := exposition(updates, pushed)
		if len(text) > 0 {
			if err = post(ctx, url, text); err == nil {
				pushed = newest
			}
		}
		said := ""
		if err != nil && ctx.Err() == nil {
			said = err.Error()
		}
		if said != failed && said != "" {
			fmt.Fprintln(out, "trying again:", said)
		}
		failed = said
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pushEvery):
		}
	}
}

// exposition returns the live updates of saves after a time, and the time of the newest one's save.
func exposition(updates []update, after time.Time) (text []byte, newest time.Time) {
	var lines bytes.Buffer
	newest = after
	for _, u := range live(updates) {
		if !u.Saved.After(after) {
			continue
		}
		if u.Saved.After(newest) {
			newest = u.Saved
		}
		done := u.Saved.Add(time.Duration(u.Total * float64(time.Second))).UnixMilli()
		line := func(stage string, seconds float64) {
			fmt.Fprintf(&lines, "go_live_update_seconds{service=%s,stage=%q} %g %d\n",
				strconv.Quote(u.Service), stage, seconds, done)
		}
		for _, stage := range stages {
			line(stage.name, stage.of(u))
		}
		line("total", u.Total)
	}
	return lines.Bytes(), newest
}

func post(ctx context.Context, url string, text []byte) error {
	ctx, cancel := context.WithTimeout(ctx, pushTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(text))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "text/plain")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode/100 != 2 {
		said, _ := io.ReadAll(io.LimitReader(response.Body, 1000))
		return fmt.Errorf("POST %s: %s: %s", url, response.Status, bytes.TrimSpace(said))
	}
	return nil
}
