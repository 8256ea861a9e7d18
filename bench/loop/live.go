package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// stages are go_live's own durations of an update, in seconds: see go_live/build/updates.go.
type stages struct {
	Wait    float64 `json:"wait"`
	Build   float64 `json:"build"`
	Deliver float64 `json:"deliver"`
	Total   float64 `json:"total"`
}

// waited is what go_live's `build wait --json` prints.
type waited struct {
	Error   string
	Updates []struct{ Service string }
	Tests   *struct{ Seconds float64 }
}

// goLive runs go_live's program for this way's tilt up.
func (b *bench) goLive(w *way, name string, args ...string) (string, error) {
	return output(filepath.Join(w.checkout, "go_live/.build/build"),
		append([]string{name, "--project", w.checkout, "--context", b.cluster.Context}, args...)...)
}

// wait waits until everything is live and its tests have run.
func (b *bench) wait(w *way) (said waited, err error) {
	text, err := b.goLive(w, "wait", "--json", "--timeout=15m")
	if json.Unmarshal([]byte(text), &said) == nil && said.Error != "" {
		err = errors.New(said.Error)
	}
	return said, err
}

// awaitGoLive waits until go_live has built the services and all pods run them.
func (b *bench) awaitGoLive(w *way) error {
	for deadline := time.Now().Add(enough); ; time.Sleep(time.Second) {
		said, err := b.wait(w)
		if err == nil && len(said.Updates) == len(w.services) {
			break
		}
		if b.ctx.Err() != nil || time.Now().After(deadline) {
			return errors.Join(fmt.Errorf("not live after %s: see .build/bench/%s.log", enough, w.name), err)
		}
	}
	var err error
	if w.state, err = b.goLive(w, "state"); err != nil {
		return err
	}
	b.states = append(b.states, w.state)
	w.begun = filepath.Join(w.state, w.services[0].name)
	return nil
}

// reported returns what go_live says of the update to the program with this SHA-256.
func (w *way) reported(sum string) (*stages, error) {
	for deadline := time.Now().Add(enough); ; time.Sleep(50 * time.Millisecond) {
		updates, err := os.ReadFile(filepath.Join(w.state, "updates"))
		if err != nil && !errors.Is(err, os.ErrNotExist) { // before the first update
			return nil, err
		}
		for line := range bytes.Lines(updates) {
			var update struct {
				SHA256 string
				stages
			}
			if json.Unmarshal(line, &update) == nil && update.SHA256 == sum { // the last line may be incomplete
				return &update.stages, nil
			}
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("go_live reports no update to the program with SHA-256 %s", sum)
		}
	}
}
