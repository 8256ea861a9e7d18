.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -o errexit -o nounset -o pipefail -c

# The product's own packages; test/simulation, test/limits and test/faults are run apart, since they take minutes.
PACKAGES := ./invoice-app/... ./payment-provider/... ./internal/... ./dev/... ./test/payall/... ./test/postgres/...
ACTIONLINT := github.com/rhysd/actionlint/cmd/actionlint@v1.7.12
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0

##@ Run

## run: run both services on this machine, without Docker (Ctrl-C stops them)
.PHONY: run
run:
	@dev/run.sh

## reset: delete the data of make run
.PHONY: reset
reset:
	@dev/run.sh --reset

##@ Test

## test: everything: the checks, the tests, and a throwaway cluster (needs Docker)
.PHONY: test
test:
	@docker version >/dev/null 2>&1 || { echo "make test needs Docker, which does not answer; make test-local runs what does not need it" >&2; exit 1; }
	$(MAKE) test-local
	$(MAKE) test-cluster

## test-local: everything that needs no Docker: checks, unit and database tests, documentation, fault suite
.PHONY: test-local
test-local: check
	dev/need.sh gcc build-essential # the race detector needs a C compiler and libc's headers
	dev/need.sh initdb postgresql
	dev/need.sh pgbouncer pgbouncer
	dev/need.sh chromium chromium
	go test -race -shuffle=on $(PACKAGES)
	go test -count=1 -timeout=20m ./test/docs # uncached: Go does not see that other files have changed
	go test -count=1 -timeout=20m -v ./test/simulation
	go test -race -shuffle=on -count=1 -v ./test/limits
	go test -race -shuffle=on -count=1 -timeout=30m -v ./test/faults
	go -C test/cluster test -count=1 -v ./page

## check: formatting, vet, staticcheck, shell scripts, workflows, manifests, known vulnerabilities
.PHONY: check
check:
	dev/need.sh shellcheck shellcheck
	@unformatted=$$(gofmt -l .); \
	if [[ $$unformatted ]]; then echo "not formatted, run gofmt -w on: $$unformatted" >&2; exit 1; fi
	go vet ./...
	go run $(STATICCHECK) ./...
	for module in test/cluster bench; do go -C $$module vet ./...; go -C $$module run $(STATICCHECK) ./...; done
	go -C test/cluster test -count=1 ./manifests ./access # uncached: Go does not see that other files have changed
	git grep -lzE '^#!.*sh$$|^# shellcheck shell=' | xargs -0 shellcheck --external-sources --source-path=SCRIPTDIR --source-path=SCRIPTDIR/..
	go run $(ACTIONLINT)
	@if timeout 5 bash -c 'exec 3<>/dev/tcp/vuln.go.dev/443' 2>/dev/null; then go run $(GOVULNCHECK) ./...; \
	else echo "govulncheck was not run: its database (vuln.go.dev) is out of reach"; fi

## simulate: run SIMULATE schedules of crashes and faults in fake time (default a million), or only SIMULATE_SEED
SIMULATE ?= 1000000
.PHONY: simulate
simulate:
	SIMULATE=$(SIMULATE) go test -count=1 -timeout=2h -v -run='TestSchedules|TestReplay' ./test/simulation

## fuzz: search for inputs that break the decoders, FUZZTIME for each (default 30s)
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
	test/cluster/run.sh kind minikube

## test-minikube: the same on a minikube cluster
.PHONY: test-minikube
test-minikube:
	test/cluster/run.sh minikube kind

## test-loop: run a real tilt up on the cluster CLUSTER_NAME: saves, crashes, restarts
.PHONY: test-loop
test-loop:
	dev/need.sh chromium chromium
	tools=$$(cluster/tools) && PATH=$$tools:$$PATH go -C test/cluster test -count=1 -timeout=40m -v ./loop

## test-mutants: remove each policy, right and bound from the cluster CLUSTER_NAME, and see a test fail
.PHONY: test-mutants
test-mutants:
	tools=$$(cluster/tools) && PATH=$$tools:$$PATH MUTANTS=all go -C test/cluster test -count=1 -timeout=3h -v ./mutants || \
	{ echo "should a mutant be left: ./deploy.sh puts everything back" >&2; exit 1; }

##@ Measure and release

## bench-loop: measure how long a save takes to be live, beside docker_build, live_update and skaffold
.PHONY: bench-loop
bench-loop:
	bench/loop.sh

## bench-pay: measure how fast invoices are paid, beside pgbench and River; BENCH_PAY="-short -check" is what CI runs
BENCH_PAY ?= -results bench/results/pay
.PHONY: bench-pay
bench-pay:
	dev/need.sh initdb postgresql
	go -C bench run ./pay $(BENCH_PAY)

## record: draw the pictures in docs/ anew, from a real run of the README's commands, and of the page
.PHONY: record
record:
	go run ./dev/record docs/first-minute.svg
	go -C test/cluster test -count=1 -run=TestLightAndDark ./page -screenshots="$(CURDIR)/docs"

## release: push both services and their SBOMs to REGISTRY, and write their digests into k8s/production
.PHONY: release
release:
	tools=$$(cluster/tools) && PATH=$$tools:$$PATH dev/release.sh "$(REGISTRY)"

##@ Help

## help: print this list
.PHONY: help
help:
	@awk '/^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  match($$0, /^## [a-z-]+: /) { printf "  make %-14s %s\n", substr($$0, 4, RLENGTH - 5), substr($$0, RLENGTH + 1) }' $(MAKEFILE_LIST)
