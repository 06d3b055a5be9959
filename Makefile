# What people do with this repository; CI runs exactly these. `make` alone explains.
.DEFAULT_GOAL := help
SHELL := /bin/bash

GO      ?= go
PREFIX  ?= /usr/local
UNITDIR ?= /etc/systemd/system
DESTDIR ?=
# A release sets this; otherwise the commit is told.
VERSION ?= 0.1.0-dev+$(shell git describe --always --dirty --exclude "*" 2>/dev/null || echo unversioned)
# Where `make run` keeps everything: state, images, sockets, logs.
SCRATCH ?= /tmp/fermata-run
# How long `make fuzz` spends on each fuzzer.
FUZZTIME ?= 20s

export CGO_ENABLED := 0
EMBEDDED := internal/daemon/embedded/fermata-keeper
LDFLAGS  := -s -w
GOLDENS   = $(shell git grep -l '"update", false' -- '*_test.go' | xargs -n1 dirname | sort -u)
PROTOGEN := TOOLS_MOD=$(CURDIR)/tools/go.mod $(GO) -C tools run ./protogen -out ../api
PROTOS   := fermata/v1/fermata.proto cadvisor/v1/cadvisor.proto

NEED_ROOT = @test $$(id -u) = 0 || { echo "make $@: needs root (namespaces, mounts, cgroups): sudo make $@" >&2; exit 1; }

.PHONY: help
help: ## this list
	@echo "fermata: a Kubernetes container runtime. Start with: sudo make run"
	@echo
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

.PHONY: build
build: ## bin/fermata (daemon and command line, one file) and bin/fermata-keeper (which it contains)
	@mkdir -p bin
	$(GO) build -trimpath -ldflags "$(LDFLAGS)" -o bin/fermata-keeper ./cmd/fermata-keeper
	@cmp -s bin/fermata-keeper $(EMBEDDED) || cp bin/fermata-keeper $(EMBEDDED)
	$(GO) build -trimpath -ldflags "$(LDFLAGS) -X fermata/internal/daemon.Version=$(VERSION)" -o bin/fermata ./cmd/fermata

.PHONY: run
run: build ## a daemon of its own in SCRATCH with a pod of two containers, shown and explained (root)
	@SCRATCH=$(SCRATCH) demo/run

.PHONY: stop
stop: ## end what `make run` started and remove all of it (root)
	@SCRATCH=$(SCRATCH) demo/stop

.PHONY: test
test: tools check unit e2e fault kubelet-e2e kernels ## everything CI runs (root)

.PHONY: unit
unit: build ## the Go tests of every package but those of the whole program in test/ (root: they make namespaces, mounts and cgroups)
	$(NEED_ROOT)
	$(GO) test -timeout 15m $$($(GO) list ./... | grep -v -E '/test/(e2e|kubelet|cluster|fault)$$')

.PHONY: check
check: ## format, vet, staticcheck, house rules, generated code, both architectures
	@files=$$(gofmt -l $$(git ls-files --cached --others --exclude-standard '*.go')); \
	  test -z "$$files" || { echo "not as gofmt writes it (run gofmt -w):"; echo "$$files"; exit 1; }
	$(GO) vet ./...
	GOARCH=arm64 $(GO) vet ./...
	$(GO) vet -tags failpoints ./internal/failpoint ./internal/daemon
	$(GO) tool -modfile=tools/go.mod staticcheck ./...
	@set -e; for proto in $(PROTOS); do $(PROTOGEN) -check $$proto; done
	$(GO) test ./internal/archtest

.PHONY: e2e
e2e: build e2e-go critest demo ## the program people run: its own tests, critest, the demonstration (root)

.PHONY: e2e-go
e2e-go: build tools ## pods from start to end through CRI, with crictl and over restarts (root)
	$(GO) test -count=1 -timeout 15m ./test/e2e

.PHONY: hostile
hostile: build tools ## a hundred thousand bad requests, of which e2e makes some: SEED=… for the same ones again (root)
	$(GO) test -count=1 -timeout 60m -run TestBadRequests ./test/e2e -args -requests 100000 $(if $(SEED),-seed $(SEED))

.PHONY: critest
critest: build tools ## Kubernetes' CRI conformance suite, and its streaming once more over WebSocket (root)
	$(GO) run ./test/critest -websocket

.PHONY: critest-random
critest-random: build tools ## critest three times in a row on one daemon, each in a random order, two specs at once (root)
	$(GO) run ./test/critest -random 3 -parallel 2

.PHONY: demo
demo: build ## `make run` twice and `make stop`, in a directory of their own (root)
	@set -e; dir=$$(mktemp -d /tmp/fermata-demo-XXXX); trap 'SCRATCH='$$dir' demo/stop' EXIT; \
	  SCRATCH=$$dir demo/run; SCRATCH=$$dir demo/run

.PHONY: kubelet-e2e
kubelet-e2e: build tools ## fermata under a real kubelet, alone with static pods; the first time it is built (root)
	$(GO) test -count=1 -parallel 30 -timeout 20m ./test/kubelet

.PHONY: fault
fault: build tools ## a fault at every step of every pipeline: errors, panics, kill -9 (root)
	@set -o pipefail; $(GO) test -count=1 -timeout 20m -v ./test/fault | grep -v -e '^=== RUN' -e '    --- PASS'

.PHONY: torture
torture: build tools ## all of what `make fault` does a part of but the matrix: 2,000 requests under 200 kills, 500 pods, …; SEED=… for other random choices (root)
	$(GO) test -count=1 -timeout 60m -v -skip TestEveryStep ./test/fault -args -ops 2000 -kills 200 -lines 10000000 -pods 500 -steady 60s -blocked 0 $(if $(SEED),-seed $(SEED))

.PHONY: cluster-e2e
cluster-e2e: build tools ## a whole Kubernetes with two nodes on this machine; the first time it is built, in ten minutes (root)
	$(GO) test -count=1 -timeout 20m -v ./test/cluster

.PHONY: kernels
kernels: build tools ## the end-to-end tests on other kernels, in virtual machines (root)
	$(GO) run ./test/kernels

.PHONY: bench
bench: build ## what a pod costs (root)
	$(GO) run ./test/bench

.PHONY: bench-peers
bench-peers: build tools ## the same beside containerd, in one run (root)
	$(GO) run ./test/bench -runtimes fermata,containerd

.PHONY: bench-probes
bench-probes: build tools ## exec probes of 50 pods under a real kubelet, once a second each: CPU of runtime and kubelet, beside containerd (root)
	$(GO) run ./test/bench -runtimes fermata,containerd -probes 50

.PHONY: tools
tools: ## install the Debian packages that tests need, if they are missing: test/packages (root)
	$(NEED_ROOT)
	@test/install

.PHONY: fuzz
fuzz: ## every fuzzer for FUZZTIME
	@set -e; for pkg in $$(git grep -l '^func Fuzz' -- '*_test.go' | xargs -n1 dirname | sort -u); do \
	  for f in $$($(GO) test -list '^Fuzz' ./$$pkg | grep ^Fuzz); do \
	    echo "$$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) ./$$pkg; done; done

.PHONY: golden
golden: ## rewrite the expected parts of golden files; then look at git diff
	@set -e; for pkg in $(GOLDENS); do $(GO) test ./$$pkg -update; done

.PHONY: generate
generate: ## the Go code of api/ from its .proto files
	@set -e; for proto in $(PROTOS); do $(PROTOGEN) $$proto; done

.PHONY: install
install: build ## bin/fermata to PREFIX, the systemd unit to UNITDIR, crictl's settings if there are none; DESTDIR is put before
	install -D -m 0755 bin/fermata $(DESTDIR)$(PREFIX)/bin/fermata
	install -d $(DESTDIR)$(UNITDIR)
	sed 's|@PREFIX@|$(PREFIX)|' packaging/fermata.service > $(DESTDIR)$(UNITDIR)/fermata.service
	chmod 0644 $(DESTDIR)$(UNITDIR)/fermata.service
	test -e $(DESTDIR)/etc/crictl.yaml || install -D -m 0644 packaging/crictl.yaml $(DESTDIR)/etc/crictl.yaml
	@test -n "$(DESTDIR)" || ! test -d /run/systemd/system || systemctl daemon-reload
	@echo "installed; start it with: systemctl enable --now fermata   (or: fermata daemon)"

.PHONY: uninstall
uninstall: ## remove what install put there; pods and images stay
	rm -f $(DESTDIR)$(PREFIX)/bin/fermata $(DESTDIR)$(UNITDIR)/fermata.service

.PHONY: clean
clean: ## remove what build made
	rm -rf bin $(EMBEDDED)
