# What people do with this repository; CI runs exactly these. `make` alone explains.
.DEFAULT_GOAL := help
SHELL := /bin/bash

GO      ?= go
PREFIX  ?= /usr/local
DESTDIR ?=
UNITDIR ?= /lib/systemd/system
# A release sets this; otherwise the commit is told.
VERSION ?= 0.1.0-dev+$(shell git describe --always --dirty --exclude "*" 2>/dev/null || echo unversioned)
# Where `make run` keeps everything: state, images, sockets, logs.
SCRATCH ?= /tmp/fermata-run
# How long `make fuzz` spends on each fuzzer.
FUZZTIME ?= 20s

export CGO_ENABLED := 0
EMBEDDED := internal/daemon/embedded/fermata-keeper
TOOL     := $(GO) tool -modfile=$(CURDIR)/tools/go.mod

.PHONY: help
help: ## this list
	@echo "fermata: a Kubernetes container runtime. Start with: make run"
	@echo
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

.PHONY: build
build: ## bin/fermata (daemon and command line, one file) and bin/fermata-keeper (which it contains)
	@mkdir -p bin
	$(GO) build -trimpath -ldflags "-s -w" -o bin/fermata-keeper ./cmd/fermata-keeper
	@cmp -s bin/fermata-keeper $(EMBEDDED) || cp bin/fermata-keeper $(EMBEDDED)
	$(GO) build -trimpath -ldflags "-s -w -X fermata/internal/daemon.Version=$(VERSION)" -o bin/fermata ./cmd/fermata

.PHONY: run
run: build ## a daemon of its own in SCRATCH with a pod of two containers, shown and explained (root)
	@SCRATCH=$(SCRATCH) demo/run

.PHONY: stop
stop: ## end what `make run` started and remove all of it
	@SCRATCH=$(SCRATCH) demo/stop

.PHONY: test
test: check unit e2e ## everything CI runs (root)

.PHONY: unit
unit: build ## the Go tests of every package (root: they make namespaces, mounts and cgroups)
	$(GO) test -timeout 15m ./...

.PHONY: check
check: build ## format, vet, staticcheck, house rules, generated code, both architectures
	@files=$$(gofmt -l $$(git ls-files "*.go")); test -z "$$files" || { echo "not as gofmt writes it (run gofmt -w):"; echo "$$files"; exit 1; }
	$(GO) vet ./...
	$(TOOL) staticcheck ./...
	TOOLS_MOD=$(CURDIR)/tools/go.mod $(GO) -C tools run ./protogen -out ../api -check fermata/v1/fermata.proto
	GOARCH=arm64 $(GO) vet ./...
	$(GO) test ./internal/archtest

.PHONY: generate
generate: ## the Go code of api/ from its .proto file
	TOOLS_MOD=$(CURDIR)/tools/go.mod $(GO) -C tools run ./protogen -out ../api fermata/v1/fermata.proto

.PHONY: clean
clean: ## remove what build made
	rm -rf bin $(EMBEDDED)
