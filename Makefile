# `make demo`, `make test` and `make build` need Go alone. Other targets install the tools that they
# need, at the versions that tools/versions pins.

GO        ?= go
FUZZTIME  ?= 10s
COUNT     ?= 1
SEEDS     ?= 10000
TESTFLAGS ?=

TOOLS   := bin/tools
INSTALL := GO=$(GO) tools/install

# Go stamps programs with git's commit, and stops where git won't answer: in a clone that belongs to
# another user, as in many containers. An unstamped program is better than none.
ifneq ($(shell git rev-parse HEAD >/dev/null 2>&1 || echo silent),)
export GOFLAGS := $(shell $(GO) env GOFLAGS) -buildvcs=false
endif

.DEFAULT_GOAL := help
.PHONY: help build demo test sim planted check check-format check-modules check-proto lint fmt proto fuzz faults
.PHONY: bench bench-report bench-compare bench-peers check-peers tools clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Without cgo, so that a machine needs no C compiler to build and no libc to run.
build: ## Build bin/espalier
	CGO_ENABLED=0 $(GO) build -o bin/espalier ./cmd/espalier

demo: build ## Sync a million objects, change some, and show what crossed the wire
	bin/espalier demo

test: ## Run the tests, with the race detector where there is a C compiler
	@GO=$(GO) tools/test $(TESTFLAGS)

sim: ## Simulate SEEDS worlds (10000); the story of the first that breaks a promise
	$(GO) test ./internal/sim -run '^TestSeeds$$' -count 1 -timeout 24h -v -seeds $(SEEDS)

planted: ## Show that the simulator finds each of the bugs in internal/sim/planted_test.go
	$(GO) test ./internal/sim -run '^TestPlanted$$' -count 1 -timeout 1h -v

check: check-format check-modules check-proto lint ## Check format, modules, generated code and proto, and lint

check-format: ## Show what gofumpt would change
	@$(INSTALL) gofumpt
	@diff=$$($(TOOLS)/gofumpt -d .) && [ -z "$$diff" ] || { \
		printf '%s\n' "$$diff"; echo "not formatted: run make fmt" >&2; exit 1; }

check-modules: ## Show what go mod tidy would change
	$(GO) mod tidy -diff

check-proto: ## Lint the proto files; show how the generated code is out of date
	@$(INSTALL) buf protoc-gen-go protoc-gen-go-grpc
	$(TOOLS)/buf lint
	@GO=$(GO) tools/check-proto

lint: ## Run go vet and golangci-lint
	@$(INSTALL) golangci-lint
	$(GO) vet ./...
	$(TOOLS)/golangci-lint run

fmt: ## Format the Go code
	@$(INSTALL) gofumpt
	$(TOOLS)/gofumpt -w .

proto: ## Regenerate the code of proto/
	@$(INSTALL) buf protoc-gen-go protoc-gen-go-grpc
	PATH="$(CURDIR)/$(TOOLS):$$PATH" buf generate

fuzz: ## Run each fuzz target for FUZZTIME (10s)
	@GO=$(GO) FUZZTIME=$(FUZZTIME) tools/fuzz

# The worlds mostly wait, so that they share two cores. FAULTSEED repeats what a run was made from.
FAULTSEED ?= 0
faults: ## Let server and agents meet bad networks and sudden ends, for 5 minutes
	$(GO) test ./cmd/espalier -run '^(TestFaults|TestSilenceIsNoticed|TestCutPulls)$$' -count 1 -v -timeout 30m \
		-parallel 18 -faults.long -faults.seed $(FAULTSEED)

KILLS ?= 300
kills: ## Kill KILLS agents (300) while they make 10,000 files true
	$(GO) test ./cmd/espalier -run '^TestApplyKilled$$' -count 1 -v -timeout 24h -apply.kills $(KILLS)

bench: ## Run the Go benchmarks COUNT times (1); compare two outputs with bin/tools/benchstat
	$(GO) test -run '^$$' -bench . -benchmem -count $(COUNT) ./...

bench-report: ## Play the patterns' default grid, and write bench/report with tables and plots
	$(GO) run ./cmd/bench-report

# BENCH, PKG and COUNT narrow it down: make bench-compare BASE=main PKG=./merkle BENCH=Update COUNT=10
BASE  ?= main
BENCH ?= .
PKG   ?= ./...
bench-compare: ## Run the Go benchmarks of BASE (main) and of what is here in turns, and compare them
	@$(INSTALL) benchstat
	@GO=$(GO) BENCH='$(BENCH)' COUNT=$(if $(filter file,$(origin COUNT)),6,$(COUNT)) tools/bench-compare '$(BASE)' $(PKG)

# Others, and Espalier among them, in a module of its own, so that Espalier doesn't depend on them.
# It has Espalier's requirements as well: when those move, "go mod tidy" there.
OBJECTS ?= 1000000
RUNS    ?= 3
PEERS   := bin/peers --espalier bin/espalier

bin/peers: FORCE
	$(GO) build -C bench/peers -o $(CURDIR)/bin/peers .

FORCE:

bench-peers: build bin/peers ## Measure etcd, NATS, delta xDS, rsync and Espalier alike, with OBJECTS (1000000), RUNS (3) times
	$(PEERS) --objects $(OBJECTS) --runs $(RUNS) --report bench/report

check-peers: build bin/peers ## Check that bench-peers works, with few objects
	$(GO) mod tidy -C bench/peers -diff
	$(GO) vet -C bench/peers ./...
	$(PEERS) --objects 2000 --runs 1 --idle 1s >/dev/null

tools: ## Install all pinned tools into bin/tools
	@$(INSTALL) $$(awk '/^[^#]/ { print $$1 }' tools/versions)

clean: ## Remove bin (the tools stay cached outside the clone)
	rm -rf bin
