.DEFAULT_GOAL := help

# Packages that run separately, because they take minutes.
APART := docs|faults|limits|rename|simulation
# The command that lists the shell scripts.
SCRIPTS := git grep -lzE '^\#!.*sh$$|^\# shellcheck shell='
DEPGUARD := github.com/OpenPeeDeeP/depguard/v2/cmd/depguard@v2.3.0
ACTIONLINT := github.com/rhysd/actionlint/cmd/actionlint@v1.7.12
SHFMT := mvdan.cc/sh/v3/cmd/shfmt@v3.13.1
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0
# Runs go test, and repeats what has failed at the end, where people look.
GOTESTSUM := gotest.tools/gotestsum@v1.13.0

##@ Run

## run: run the services on this machine, without Docker (Ctrl-C stops them)
.PHONY: run
run:
	@workspace/run run

## reset: delete the data of make run
.PHONY: reset
reset:
	@workspace/run run --reset

##@ Test

## test: run everything: checks, tests, and the cluster tests on a throwaway cluster (needs Docker)
.PHONY: test
test:
	@docker version >/dev/null 2>&1 || { \
	echo "make test needs Docker, which does not answer;" \
	"make test-local runs everything that works without it" >&2; exit 1; }
	$(MAKE) test-local
	$(MAKE) test-rename
	$(MAKE) test-cluster

## test-local: run everything that needs no Docker: checks, unit and database tests, documentation, fault suite
.PHONY: test-local
test-local: check
	workspace/run need gcc build-essential # the race detector needs a C compiler and libc's headers
	workspace/run need initdb postgresql
	workspace/run need pgbouncer pgbouncer
	workspace/run need chromium chromium
	go run $(GOTESTSUM) -f standard-quiet -- -race -shuffle=on $$(go list ./... | grep -vE '/test/($(APART))$$')
	go -C workspace run $(GOTESTSUM) -f standard-quiet -- -race -shuffle=on ./...
	go -C go_live run $(GOTESTSUM) -f standard-quiet -- -race -shuffle=on ./...
	go test -count=1 -timeout=20m ./test/docs # uncached: Go does not see that other files have changed
	go run $(GOTESTSUM) -f standard-verbose -- -count=1 -timeout=20m ./test/simulation
	go run $(GOTESTSUM) -f standard-verbose -- -race -shuffle=on -count=1 ./test/limits
	go run $(GOTESTSUM) -f standard-verbose -- -race -shuffle=on -count=1 -timeout=30m ./test/faults
	go -C test/cluster run $(GOTESTSUM) -f standard-verbose -- -count=1 ./page

## test-rename: rename the module, the product and the teams in a clone, and check and test the result
.PHONY: test-rename
test-rename:
	go test -count=1 -timeout=40m -v ./test/rename

## check: check formatting, Go code and its layers, shell scripts, workflows, manifests and known vulnerabilities
.PHONY: check
check:
	workspace/run need shellcheck shellcheck
	@unformatted=$$(gofmt -l .); \
	if [ -n "$$unformatted" ]; then echo "not formatted, run gofmt -w on: $$unformatted" >&2; exit 1; fi
	@if $(SCRIPTS) | LC_ALL=C.UTF-8 xargs -0 \
	git grep -nE '^.{121,}$$' -- Makefile '*Tiltfile' '*.go' ':!*/testdata/*' >&2; \
	then echo "the lines above have more than 120 characters: wrap them" >&2; exit 1; fi
	for module in . workspace go_live test/cluster bench; do \
	go -C $$module vet ./... && go -C $$module run $(STATICCHECK) ./... || exit 1; done
	for module in . workspace go_live test/cluster bench; do \
	GOOS=darwin GOARCH=arm64 go -C $$module vet ./... || exit 1; done
	go run $(DEPGUARD) ./... # .depguard.yaml
	workspace/run generate --check
	go -C test/cluster test -count=1 ./manifests ./access # uncached: Go does not see that other files have changed
	$(SCRIPTS) | xargs -0 shellcheck --external-sources --source-path=SCRIPTDIR --source-path=SCRIPTDIR/..
	$(SCRIPTS) | xargs -0 go run $(SHFMT) --diff
	go run $(ACTIONLINT)
	@if workspace/run reaches https://vuln.go.dev/index/db.json 2>/dev/null; then go run $(GOVULNCHECK) ./...; \
	else echo "govulncheck was not run: its database (vuln.go.dev) is unreachable"; fi

## simulate: run SIMULATE schedules of crashes and faults in fake time (default: a million), or only SIMULATE_SEED
SIMULATE ?= 1000000
.PHONY: simulate
simulate:
	SIMULATE=$(SIMULATE) go test -count=1 -timeout=2h -v -run='TestSchedules|TestReplay' ./test/simulation

## fuzz: fuzz the decoders, FUZZTIME each (default: 30s)
FUZZTIME ?= 30s
.PHONY: fuzz
fuzz:
	go test ./internal/config -run='^$$' -fuzz=FuzzDotenv -fuzztime=$(FUZZTIME)
	go test ./internal/money -run='^$$' -fuzz=FuzzParse -fuzztime=$(FUZZTIME)
	go test ./payment-provider/api -run='^$$' -fuzz=FuzzDecodePayment -fuzztime=$(FUZZTIME)
	go test ./invoice-app/api -run='^$$' -fuzz=FuzzDecode -fuzztime=$(FUZZTIME)
	go test ./invoice-app/importer -run='^$$' -fuzz=FuzzCSV -fuzztime=$(FUZZTIME)
	go test ./invoice-app/importer -run='^$$' -fuzz=FuzzJSONLines -fuzztime=$(FUZZTIME)

##@ Test on a cluster (needs Docker)

## test-cluster: set up a throwaway cluster beside yours and run all cluster tests on it
.PHONY: test-cluster
test-cluster:
	go -C test/cluster run ./run kind minikube

## test-minikube: run the same on a minikube cluster
.PHONY: test-minikube
test-minikube:
	go -C test/cluster run ./run minikube kind

## test-production: rehearse production on a throwaway cluster, and change and break it under load
.PHONY: test-production
test-production:
	go -C test/cluster run ./run --short production

## test-long: the same with hundreds of faults and all changes: takes hours
.PHONY: test-long
test-long:
	go -C test/cluster run ./run production

## test-machines: deploy as an unprivileged user on an unusual machine, and with programs missing (needs root)
.PHONY: test-machines
test-machines:
	workspace/run need busybox busybox-static
	tools=$$(workspace/run tools) && PATH=$$tools:$$PATH go -C test/cluster test -count=1 -timeout=40m -v ./machines

## test-loop: test tilt up on the cluster CLUSTER_NAME: saves, crashes, restarts
.PHONY: test-loop
test-loop:
	workspace/run need chromium chromium
	tools=$$(workspace/run tools) && PATH=$$tools:$$PATH go -C test/cluster test -count=1 -timeout=40m -v ./loop

## test-mutants: remove each policy, right and bound from the cluster CLUSTER_NAME, and expect a test to fail
.PHONY: test-mutants
test-mutants:
	tools=$$(workspace/run tools) && PATH=$$tools:$$PATH MUTANTS=all \
	go -C test/cluster test -count=1 -timeout=3h -v ./mutants || \
	{ echo "if a mutant is left behind, ./deploy.sh restores everything" >&2; exit 1; }

##@ Measure, generate and release

## bench-loop: measure the time from a save to the new response, against other tools; BENCH_LOOP=-only=loop: alone
BENCH_LOOP ?= -results bench/results/loop
.PHONY: bench-loop
bench-loop:
	workspace/run need initdb postgresql # for the tests that run meanwhile
	go -C bench run ./loop $(BENCH_LOOP)

## bench-pay: measure how fast invoices are paid, against pgbench and River; CI runs BENCH_PAY="-short -check"
BENCH_PAY ?= -results bench/results/pay
.PHONY: bench-pay
bench-pay:
	workspace/run need initdb postgresql
	go -C bench run ./pay $(BENCH_PAY)

## record: record the pictures in docs/ from real runs: of the README's commands, of the page, on cluster CLUSTER_NAME
.PHONY: record
record:
	go run ./docs/record docs/first-minute.svg
	go -C test/cluster test -count=1 -run=TestLightAndDark ./page -screenshots=../../../docs
	tools=$$(workspace/run tools) && PATH=$$tools:$$PATH go -C test/cluster test -count=1 -timeout=40m -run=TestObserve \
	./loop -screenshots=../../../docs

## release: push the services and their SBOMs to REGISTRY, and write their digests into k8s/overlays/production
.PHONY: release
release:
	workspace/run release "$(REGISTRY)"

## generate: write the files that follow from services.yaml
.PHONY: generate
generate:
	@workspace/run generate

##@ Help

## help: print this list
.PHONY: help
help:
	@awk '/^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  match($$0, /^## [a-z-]+: /) { printf "  make %-14s %s\n", \
	    substr($$0, 4, RLENGTH - 5), substr($$0, RLENGTH + 1) }' $(MAKEFILE_LIST)
