# make demo   three pods with two and three interfaces on two hosts, in a minute
# make test   everything that can be tested on this machine (root; installs
#             what it needs; the first time it builds a Kubernetes, ~8 minutes)
# make help   all targets

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.PHONY: help build generate image demo test unit fault e2e bench soak lint fmt packages tools clean FORCE

export CGO_ENABLED := 0
GO ?= go
BIN := $(CURDIR)/bin
TOOLS := $(MAKE) -s -C e2e/tools
# Two packages at a time: each kernel test starts threads and processes of its own.
TEST_PARALLEL ?= 2
BENCH ?= .
ARCH ?= $(shell $(GO) env GOARCH)
GOTEST := $(GO) test -p $(TEST_PARALLEL)
# Prints what go test prints without -v, and keeps the names and reasons of
# skipped tests for the end.
SKIPS := $(BIN)/skipped
REPORT := $(BIN)/testreport -skips $(SKIPS)

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

build: ## the programs, static, into bin
	$(GO) build -trimpath -buildvcs=false -ldflags '-s -w' -o $(BIN)/ ./cmd/...

generate: ## deep copies of pkg/api, deployments/crds, the CRDs in the manifest
	@$(TOOLS) codegen
	gen="$$($(TOOLS) print-codegen-dir)/controller-gen"
	"$$gen" object paths=./pkg/api/...
	rm -f deployments/crds/*.yaml
	"$$gen" crd paths=./pkg/api/... output:crd:dir=deployments/crds
	$(GO) test -count=1 -run '^(TestGenerated|TestManifestHasTheCRDs)$$' ./pkg/api/v1alpha1 ./deployments -update

image: ## bin/meta-cni-ARCH.tar, an OCI image for `ctr images import` (ARCH=amd64|arm64)
	$(GO) run ./images/build -arch $(ARCH) -o $(BIN)/meta-cni-$(ARCH).tar

demo: build ## two hosts, three pods, many interfaces; cleans up after itself
	$(TOOLS) plugins
	ln -sf meta-cni $(BIN)/meta-ipam
	$(GO) run ./e2e/demo -bin $(BIN)

# The report of what was skipped is printed whether a stage fails or not.
test: packages tools ## unit, fault and e2e, then what was skipped and why
	@rm -f $(SKIPS)
	@rc=0
	for stage in unit fault e2e; do
		echo "== $$stage"
		$(MAKE) $$stage || { rc=1; failed="$${failed:-} $$stage"; }
	done
	$(MAKE) $(BIN)/testreport && $(REPORT) -summary
	test $$rc = 0 || echo "failed:$$failed" >&2
	exit $$rc

unit: $(BIN)/testreport ## packages without a cluster; kernel tests too when root (< 5 min)
	$(GOTEST) -json -timeout 10m ./... | $(REPORT)

# Tests that need the failpoints in the code of their own package.
fault: $(BIN)/testreport ## crash tests that need armed failpoints
	@files="$$(git grep -lE '^//go:build .*failpoint' -- '*_test.go' || true)"
	packages="$$(for f in $$files; do echo "./$$(dirname "$$f")"; done | sort -u)"
	if test -z "$$packages"; then echo "no package has such tests"; exit 0; fi
	$(GOTEST) -json -tags failpoint -timeout 15m $$packages | $(REPORT)

e2e: $(BIN)/testreport tools ## a real cluster on this machine (root)
	$(GO) test -json -count=1 -p 1 -tags e2e ./e2e/... -timeout 25m | $(REPORT) -stream

bench: ## benchmarks (BENCH=regexp)
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem -p 1 ./...

SOAK_OPS ?= 10000000
soak: ## the IPAM's long run: SOAK_OPS operations with faults (an hour), the big models; prints the seed
	META_CNI_SOAK=$(SOAK_OPS) $(GO) test -count=1 -timeout 6h -v -run 'Simulation|Linearizable|DoesNotGrow' ./pkg/ipam/agent
	META_CNI_MODEL=full $(GO) test -count=1 -timeout 2h ./pkg/ipam/model

lint: ## linters, formatting, tidy go.mod, vet of every build tag
	@$(TOOLS) lint
	echo "== golangci-lint"
	"$$($(TOOLS) print-lint-dir)/golangci-lint" run ./...
	echo "== gofmt"
	out="$$(git ls-files -z --cached --others --exclude-standard '*.go' | xargs -0 -r ls 2>/dev/null | xargs -r gofmt -l)"
	if test -n "$$out"; then echo "not formatted (make fmt):" >&2; echo "$$out" >&2; exit 1; fi
	echo "== generated files"
	$(TOOLS) codegen
	gen="$$($(TOOLS) print-codegen-dir)/controller-gen"
	tmp="$$(mktemp -d)"; trap 'rm -rf "$$tmp"' EXIT
	"$$gen" object crd paths=./pkg/api/... output:object:dir="$$tmp" output:crd:dir="$$tmp/crds"
	diff -u pkg/api/v1alpha1/zz_generated.deepcopy.go "$$tmp/zz_generated.deepcopy.go"
	diff -ur deployments/crds "$$tmp/crds"
	echo "== go mod tidy"
	$(GO) mod tidy -diff
	echo "== go vet with e2e and failpoint"
	$(GO) vet -tags e2e ./...
	$(GO) vet -tags failpoint ./...
	$(GO) vet -tags e2e,failpoint ./e2e/...

fmt: ## format the code as the linters want it
	@$(TOOLS) lint
	"$$($(TOOLS) print-lint-dir)/golangci-lint" fmt ./...

packages: ## Debian packages that the tests need, if missing
	$(TOOLS) packages

tools: ## Kubernetes, containerd and CNI plugins for the tests, into the cache
	$(TOOLS) cluster

clean: ## what the build made (not the cache)
	rm -rf $(BIN)

$(BIN)/testreport: FORCE
	@$(GO) build -o $@ ./e2e/testreport

FORCE:

.ONESHELL:
