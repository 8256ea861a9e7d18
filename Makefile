.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -o errexit -o nounset -o pipefail -c

# The product's own packages; test/faults is run apart, since it takes minutes.
PACKAGES := ./invoice-app/... ./payment-provider/... ./internal/... ./dev/... ./test/payall/...
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0

## run: run both services on this machine, without Docker (Ctrl-C stops them)
.PHONY: run
run:
	@dev/run.sh

## reset: forget what make run has kept in data/
.PHONY: reset
reset:
	@dev/run.sh --reset

## test: everything: the checks, the tests, and a throwaway cluster (needs Docker)
.PHONY: test
test:
	@docker version >/dev/null 2>&1 || { echo "make test needs Docker, which does not answer; make test-local runs what does not need it" >&2; exit 1; }
	$(MAKE) test-local
	$(MAKE) test-cluster

## test-cluster: a throwaway cluster beside yours, and the tests of everything on it (needs Docker)
.PHONY: test-cluster
test-cluster:
	test/cluster/run.sh kind minikube

## test-minikube: the same on a cluster that is made with minikube (needs Docker)
.PHONY: test-minikube
test-minikube:
	test/cluster/run.sh minikube kind

## test-local: what needs no Docker: the checks, unit and database tests, the fault suite
.PHONY: test-local
test-local: check
	dev/need.sh gcc build-essential # the race detector needs a C compiler and libc's headers
	dev/need.sh initdb postgresql
	go test -race -shuffle=on $(PACKAGES)
	go test -race -shuffle=on -count=1 -timeout=30m -v ./test/faults

## test-loop: a real tilt up on the cluster that CLUSTER_NAME names: saves, crashes, restarts
.PHONY: test-loop
test-loop:
	dev/need.sh chromium chromium
	tools=$$(cluster/tools) && PATH=$$tools:$$PATH go -C test/cluster test -count=1 -timeout=40m -v ./loop

## bench-loop: how long a save takes to be live, beside docker_build, live_update and skaffold
.PHONY: bench-loop
bench-loop:
	bench/loop.sh

## test-mutants: remove each policy, right and bound from the cluster that CLUSTER_NAME names, and see a test fail
.PHONY: test-mutants
test-mutants:
	tools=$$(cluster/tools) && PATH=$$tools:$$PATH MUTANTS=all go -C test/cluster test -count=1 -timeout=3h -v ./mutants || \
	{ echo "should a mutant be left: ./deploy.sh puts everything back" >&2; exit 1; }

## release: push both services and their SBOMs to REGISTRY, and their digests into k8s/production
.PHONY: release
release:
	tools=$$(cluster/tools) && PATH=$$tools:$$PATH dev/release.sh "$(REGISTRY)"

## check: formatting, vet, staticcheck, shell scripts, manifests, known vulnerabilities
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
	@if timeout 5 bash -c 'exec 3<>/dev/tcp/vuln.go.dev/443' 2>/dev/null; then go run $(GOVULNCHECK) ./...; \
	else echo "govulncheck was not run: its database (vuln.go.dev) is out of reach"; fi

## fuzz: look for inputs that break the decoders, FUZZTIME for each (default 30s)
FUZZTIME ?= 30s
.PHONY: fuzz
fuzz:
	go test ./internal/config -run='^$$' -fuzz=FuzzDotenv -fuzztime=$(FUZZTIME)
	go test ./internal/money -run='^$$' -fuzz=FuzzParse -fuzztime=$(FUZZTIME)
	go test ./payment-provider/api -run='^$$' -fuzz=FuzzDecodePayment -fuzztime=$(FUZZTIME)
	go test ./invoice-app/api -run='^$$' -fuzz=FuzzDecode -fuzztime=$(FUZZTIME)

## help: this list
.PHONY: help
help:
	@sed -n 's/^## \([a-z-]*\): \(.*\)/\1 \2/p' $(MAKEFILE_LIST) | while read -r target text; do printf '  make %-14s %s\n' "$$target" "$$text"; done
