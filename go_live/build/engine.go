package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// quiet is the time without an event after which a save counts as complete.
	quiet = 15 * time.Millisecond
	// pollEvery is how often the inputs are compared, because not every file system reports events.
	pollEvery = 2 * time.Second
	// patience is how long a process may take to end.
	patience = 10 * time.Second
)

// engine builds programs whenever their inputs change.
type engine struct {
	folder   string // holds the socket, the copy of the sources and the files that Tilt watches
	log      io.Writer
	mirror   *mirror
	recorder *recorder
	watcher  *fsnotify.Watcher // nil without inotify
	blind    map[string]bool   // folders that cannot be watched
	pods     *pods
	work     chan struct{} // has an element if there is something to do

	mu        sync.Mutex
	changed   chan struct{} // closed when anything below changes
	targets   map[string]*target
	saved     time.Time              // of the last event
	busy      bool                   // from a save until all programs that it changes run, or have failed
	interrupt context.CancelFunc     // ends the round
	asked     int                    // how often somebody has asked what is on disk
	answered  int                    // the last of these that is answered
	shared    map[string]fs.FileInfo // the folders that the node sees
	tests     tests
}

// target is a program and what is known of it. Its engine's mu protects it.
type target struct {
	program
	in        inputs
	asked     bool              // in is known
	failed    error             // why it is not
	troubled  bool              // the inputs could not be read in the last round
	settled   bool              // the last update was completed
	said      string            // the output of the last update
	followers int               // how many clients are being told
	told      bool              // a client was told all of it
	update    update            // the last one
	contents  map[string][]byte // of its inputs in the last round
	last      *built            // nil: the next build must be go build's
	sum       string            // the SHA-256 of the program of the last update without an error, or "" before the first
}

func byName(a, b *target) int { return strings.Compare(a.Name, b.Name) }

// job is one update of a target.
type job struct {
	*target
	engine *engine
	update update
	err    error
}

// Write shows text to those who follow the update.
func (j *job) Write(text []byte) (int, error) {
	j.engine.change(func() { j.said += string(text) })
	return len(text), nil
}

func newEngine(folder, kubeContext string, log io.Writer) *engine {
	e := &engine{
		folder: folder, log: log, blind: map[string]bool{},
		pods: &pods{context: kubeContext, socket: filepath.Join(folder, "api")},
		work: make(chan struct{}, 1), changed: make(chan struct{}), targets: map[string]*target{}, interrupt: func() {},
		shared: map[string]fs.FileInfo{}, mirror: &mirror{folder: filepath.Join(folder, "source")},
		recorder: &recorder{folder: filepath.Join(folder, "direct")},
	}
	var err error
	if e.watcher, err = fsnotify.NewWatcher(); err != nil {
		e.late("saves", err)
	}
	return e
}

func (e *engine) late(what string, err error) {
	fmt.Fprintf(e.log, "%s are noticed up to %s late: %v (on Linux, see fs.inotify in sysctl)\n", what, pollEvery, err)
}

// change changes the state, and wakes everyone who awaits that.
func (e *engine) change(do func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	do()
	close(e.changed)
	e.changed = make(chan struct{})
}

// await waits until done, which may read the state, returns true.
func (e *engine) await(ctx context.Context, done func() bool) error {
	for {
		e.mu.Lock()
		ok, changed := done(), e.changed
		e.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// register makes the engine build a program from now on, or again if that failed and a client knows it.
func (e *engine) register(p program) *target {
	var t *target
	e.change(func() {
		t = e.targets[p.Name]
		switch {
		case t == nil || !reflect.DeepEqual(t.program, p):
			t = &target{program: p}
			e.targets[p.Name] = t
		case t.settled && t.told && t.update.Error != "":
			t.settled, t.asked = false, false
		default:
			return
		}
		e.wake()
	})
	return t
}

// wake starts a new round, in place of the current one. The caller holds e.mu.
func (e *engine) wake() {
	e.busy, e.saved = true, time.Now()
	e.interrupt()
	e.look()
}

// look starts a round when the current one ends, if none is waiting to start.
func (e *engine) look() {
	select {
	case e.work <- struct{}{}:
	default:
	}
}

// run builds until ctx ends, or the process that started this one.
func (e *engine) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		for parent := os.Getppid(); parent == os.Getppid() && ctx.Err() == nil; time.Sleep(askEvery) {
		}
		cancel() // a killed Tilt ends nothing
	}()
	defer e.pods.close()
	if e.watcher != nil {
		go e.watch(ctx)
		defer e.watcher.Close()
	}
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-poll.C:
		case <-e.work:
			for e.sinceSave() < quiet {
				time.Sleep(quiet - e.sinceSave())
			}
		}
		round, cancel := context.WithCancel(ctx)
		asked := 0
		e.change(func() { e.interrupt, asked = cancel, e.asked })
		e.round(round)
		e.change(func() {
			settled := true // unless another save was noticed in the middle
			for _, t := range e.targets {
				settled = settled && t.settled
			}
			if round.Err() == nil && settled {
				e.busy, e.answered = false, asked
			} else if round.Err() == nil {
				e.wake()
			}
		})
		cancel()
	}
}

func (e *engine) sinceSave() time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	return time.Since(e.saved)
}

// watch handles the events of the file system.
func (e *engine) watch(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case err := <-e.watcher.Errors: // events were lost
			fmt.Fprintln(e.log, err)
			e.change(e.wake)
		case event := <-e.watcher.Events:
			if event.Op == fsnotify.Chmod {
				continue
			}
			e.mu.Lock()
			code, test := false, false
			for _, t := range e.targets {
				code, test = code || t.in.has(event.Name), test || t.in.hasTest(event.Name)
			}
			e.mu.Unlock()
			if code || test {
				e.change(func() {
					e.tests.stale = e.tests.stale || test
					e.wake()
				})
			}
		}
	}
}

// round makes everything what is on disk, unless ctx ends.
func (e *engine) round(ctx context.Context) {
	e.mu.Lock()
	targets := slices.SortedFunc(maps.Values(e.targets), byName)
	saved := e.saved
	if !e.busy { // noticed without an event
		saved = time.Now()
	}
	e.mu.Unlock()

	_, err := e.sync(ctx, targets, false) // targets that have changed are no longer settled
	if ctx.Err() != nil {
		return
	}
	var jobs []*job
	e.mu.Lock()
	for _, t := range targets {
		failed := errors.Join(t.failed, err)
		if troubled := failed != nil; !t.settled || troubled != t.troubled {
			t.troubled = troubled
			jobs = append(jobs, &job{target: t, engine: e, err: failed, update: update{Service: t.Name, Saved: saved}})
		}
	}
	e.mu.Unlock()
	if len(jobs) > 0 {
		began := time.Now()
		e.change(func() {
			e.busy = true
			for _, j := range jobs {
				j.settled, j.told, j.said = false, false, ""
				if j.followers == 0 {
					e.touch(j.Name) // Tilt runs the command that follows the update
				}
			}
		})
		e.build(ctx, targets, jobs)
		e.recorder.clean(targets)
		var all sync.WaitGroup
		for _, j := range jobs {
			j.update.Wait, j.update.Build = began.Sub(saved).Seconds(), time.Since(began).Seconds()
			all.Go(func() { e.finish(ctx, j) })
		}
		all.Wait()
	}
	if ctx.Err() != nil {
		return
	}
	for _, j := range jobs {
		e.keep(j.update)
	}
	call := false
	e.change(func() {
		call = e.tests.stale && e.tests.followers == 0
		e.tests.due = e.tests.due || e.tests.stale
		e.tests.stale = false
	})
	if call {
		e.touch("tests")
	}
}

// build compiles the programs. If that fails, perhaps Go needs other files than it named before. And one program's
// error does not hold up the others.
func (e *engine) build(ctx context.Context, targets []*target, jobs []*job) {
	// Go does not know what to build for the others.
	jobs = slices.DeleteFunc(slices.Clone(jobs), func(j *job) bool { return j.err != nil })
	if len(jobs) == 0 {
		return
	}
	begin := func() {
		e.change(func() {
			for _, j := range jobs {
				j.said = ""
			}
		})
	}
	err := e.compile(ctx, jobs)
	if err == nil || ctx.Err() != nil {
		return
	}
	if changed, failed := e.sync(ctx, targets, true); failed == nil && changed {
		begin()
		err = e.compile(ctx, jobs)
	}
	if err != nil && len(jobs) > 1 {
		begin()
		for _, j := range jobs {
			j.err = e.compile(ctx, []*job{j})
		}
		return
	}
	for _, j := range jobs {
		j.err = err
	}
}

// compile compiles programs, with one go build for all that have the same flags.
func (e *engine) compile(ctx context.Context, jobs []*job) error {
	for _, j := range jobs {
		e.mu.Lock()
		shared := e.shared[j.Folder]
		e.mu.Unlock()
		if now, err := os.Stat(j.Folder); err != nil || !os.SameFile(now, shared) {
			return fmt.Errorf("the folder %s was deleted, and the node cannot see a new one until it restarts: "+
				"stop `tilt up`, restart the node, and start again", j.Folder)
		}
		if err := j.prepare(ctx, j); err != nil {
			return err
		}
	}
	for len(jobs) > 0 {
		first := jobs[0]
		var together, others []*job
		for _, j := range jobs {
			if j.buildsWith(first.program) &&
				!slices.ContainsFunc(together, func(o *job) bool { return o.in.output == j.in.output }) {
				together = append(together, j)
			} else {
				others = append(others, j)
			}
		}
		jobs = others
		err := e.direct(ctx, together)
		if err != nil && ctx.Err() == nil {
			err = e.goBuild(ctx, together)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// goBuild compiles programs of the same flags with one go build.
func (e *engine) goBuild(ctx context.Context, jobs []*job) error {
	first := jobs[0]
	folder := filepath.Join(first.Folder, ".new")
	if err := os.RemoveAll(folder); err != nil { // a build that was killed has left something
		return err
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	module := e.mirror.path(first.Module)
	flags, env := e.recorder.prepare(ctx, first.program, module)
	args := slices.Concat(flags, first.buildFlags(), []string{"-o", folder + string(filepath.Separator)})
	outs := []io.Writer{}
	for _, j := range jobs {
		args, outs = append(args, j.Package), append(outs, j)
	}
	if err := first.goBuild(ctx, module, env, io.MultiWriter(outs...), args...); err != nil {
		return err
	}
	for _, j := range jobs {
		if err := os.Rename(filepath.Join(folder, j.in.output), j.built()); err != nil {
			return err
		}
	}
	e.recorder.remember(jobs, e.mirror)
	return os.Remove(folder)
}

// finish delivers what was compiled, waits for the pods' answers and completes the update.
func (e *engine) finish(ctx context.Context, j *job) {
	first, said := j.sum == "", ""
	if j.err == nil {
		said, j.err = e.deliver(ctx, j, first)
	}
	if ctx.Err() != nil {
		return
	}
	if j.err != nil {
		said = "go_live: " + j.err.Error()
		j.update.Error = j.err.Error()
		if line := errorIn(j.said); line != "" {
			j.update.Error = line
		}
	}
	fmt.Fprintln(j, said)
	e.change(func() {
		j.target.update, j.settled = j.update, true
		if j.err == nil {
			j.sum = j.update.SHA256
		}
	})
}

func (e *engine) deliver(ctx context.Context, j *job, first bool) (said string, err error) {
	began := time.Now()
	sum, changed, restart, err := j.program.deliver()
	if err != nil {
		return "", err
	}
	e.change(func() { e.tests.stale = e.tests.stale || changed && !first })
	j.update.SHA256 = sum
	if restart {
		if err := e.pods.restart(ctx, j.program); err != nil && !errors.Is(err, errNoDeployment) {
			return "", err
		}
	}
	limit := answerPatience
	switch {
	case first: // Tilt deploys when this is done
		if restart {
			err = os.Remove(j.restarting())
		}
		return j.Name + " is built: its pods start with it", errors.Join(err, e.pods.freeVolume(ctx, j.program))
	case restart:
		limit = restartPatience
	}
	j.update.Pods, err = e.pods.await(ctx, j.program, sum, limit, false)
	if errors.Is(err, errNoDeployment) {
		fmt.Fprintf(j, "%v: asking Tilt to deploy it again\n", err)
		if err := e.redeploy(ctx, j); err != nil {
			return "", err
		}
		j.update.Pods, err = e.pods.await(ctx, j.program, sum, restartPatience, true)
	}
	if err == nil && restart {
		err = os.Remove(j.restarting())
	}
	if !changed && !restart {
		return "nothing has changed in " + j.Name, err
	}
	j.update.Deliver = time.Since(began).Seconds()
	j.update.Total = time.Since(j.update.Saved).Seconds()
	return j.update.String(), err
}

// redeploy makes Tilt deploy a program again, after something else has deployed or deleted it.
func (e *engine) redeploy(ctx context.Context, j *job) error {
	if err := e.pods.freeVolume(ctx, j.program); err != nil {
		return err
	}
	if output, err := exec.CommandContext(ctx, "tilt", "trigger", j.Name).CombinedOutput(); err != nil {
		return fmt.Errorf("tilt trigger %s: %w: %s", j.Name, err, output)
	}
	return nil
}

// sync makes the mirror contain the inputs, and reports whether files have changed: then their targets are not settled
// any more. It asks Go for the inputs if they are unknown or may be others than before, or if ask is true.
func (e *engine) sync(ctx context.Context, targets []*target, ask bool) (changed bool, err error) {
	for {
		asked := false
		for _, t := range targets {
			e.mu.Lock()
			known := t.asked && !ask
			e.mu.Unlock()
			if known {
				continue
			}
			in, failed := t.ask(ctx)
			if ctx.Err() != nil {
				e.change(func() { t.asked = false })
				return changed, ctx.Err()
			}
			if failed != nil {
				in.packages, in.tested, in.output, in.program = t.in.packages, t.in.tested, t.in.output, t.in.program
			}
			e.change(func() { t.in, t.asked, t.failed = in, failed == nil, failed })
			asked = true
		}
		contents := map[string][]byte{}
		for _, t := range targets {
			e.watchFolders(t.in)
			read, failed := t.in.read()
			t.contents = read
			if failed != nil {
				return changed, failed
			}
			maps.Copy(contents, read)
		}
		more, reshaped, failed := e.mirror.update(contents)
		changed = changed || len(more) > 0
		e.change(func() {
			for _, t := range targets {
				if slices.ContainsFunc(more, t.in.has) {
					t.settled, t.said = false, ""
				}
			}
		})
		if failed != nil || !reshaped || asked {
			return changed, failed
		}
		ask = true
	}
}

// watchFolders watches the inputs' folders, also those that were deleted and created again.
func (e *engine) watchFolders(in inputs) {
	if e.watcher == nil {
		return
	}
	for _, folder := range in.folders() {
		if err := e.watcher.Add(folder); err != nil && !errors.Is(err, fs.ErrNotExist) && !e.blind[folder] {
			e.blind[folder] = true
			e.late("saves in "+folder, err)
		}
	}
}

// touch changes a file that Tilt watches.
func (e *engine) touch(name string) {
	file := filepath.Join(e.folder, name)
	if err := os.WriteFile(file, []byte(time.Now().Format(time.RFC3339Nano)+"\n"), 0o600); err != nil {
		fmt.Fprintln(e.log, err)
	}
}
