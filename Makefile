# BearMQ for Go. `make` lists the targets.

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

# Every module of go.work: a new one is tested and checked without a change here.
MODULES  = $(shell go list -m -f '{{.Dir}}')
PACKAGES = $(MODULES:%=%/...)

# Of tests that need what a machine may not have, or much time.
TAGS = fault,pgbouncer,drivers

# Runs of each test, and a pattern of tests: make race COUNT=10 RUN=TestGroup
COUNT ?= 1
RUN   ?= .
# The longest that one package's tests may take.
TIMEOUT ?= 20m

GOTEST = go test -shuffle=on -count=$(COUNT) -timeout=$(TIMEOUT)

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z0-9-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: postgres bin/bearmq ## run the demo on a private PostgreSQL (or that of DATABASE_URL)
	./bin/bearmq demo

.PHONY: data
data: ## make the demo's data file again, byte for byte the same
	go run ./cmd/bearmq/internal/orders/generate testdata/orders.csv

.PHONY: test
test: postgres ## test every module (COUNT=10 repeats, RUN=TestGroup selects)
	$(GOTEST) -run '$(RUN)' $(PACKAGES)

.PHONY: race
race: postgres ## test every module with the race detector
	$(GOTEST) -race -run '$(RUN)' $(PACKAGES)

# What depends on the version of PostgreSQL, with versions beside the machine's own.
VERSIONS ?= 14 16 17 18

.PHONY: test-versions
test-versions: ## test with other versions of PostgreSQL (VERSIONS="14 18", RUN=TestPlans)
	@set -e; for version in $(VERSIONS); do \
		bin="$$(./scripts/postgres-versions $$version)"; \
		echo "== PostgreSQL $$version"; \
		DATABASE_URL= BEARMQ_PG_BIN="$$bin" $(GOTEST) -run '$(RUN)' . ./internal/pgserver ./internal/store ./internal/stress; \
	done

.PHONY: test-pgbouncer
test-pgbouncer: postgres ## test the library behind pgbouncer, which is installed if it is missing
	@./scripts/package pgbouncer
	$(GOTEST) -race -tags pgbouncer -run '$(RUN)' ./internal/pgbouncer

.PHONY: test-drivers
test-drivers: postgres ## test SQL's functions with the drivers of Node and Python, which are installed if they are missing
	@./scripts/package npm
	@./scripts/package python3-psycopg2
	@[ -d .cache/node/node_modules/pg ] || npm install --silent --no-fund --no-audit --prefix .cache/node pg@8
	$(GOTEST) -tags drivers -run '$(RUN)' ./internal/drivers

.PHONY: mutants
mutants: postgres ## check that the model tests notice planted faults
	$(GOTEST) -v -run '^TestMutant' $(PACKAGES)

.PHONY: chaos
chaos: postgres ## harm processes, connections and the server at random and check every promise (SEED=7 DURATION=60s, or KILLS=60)
	go run -buildvcs=false ./internal/chaos -seed $(or $(SEED),0) -duration $(or $(DURATION),60s) -kills $(or $(KILLS),0)

.PHONY: soak
soak: postgres ## load the library for an hour with some faults and see that nothing grows (DURATION=1h SEED=7 OUT=bin/soak)
	@mkdir -p $(dir $(or $(OUT),bin/soak)); status=0; \
	go run -buildvcs=false ./internal/chaos -soak $(or $(OUT),bin/soak).csv -duration $(or $(DURATION),1h) -seed $(or $(SEED),0) || status=$$?; \
	go run -buildvcs=false ./internal/plots soak $(or $(OUT),bin/soak).csv $(or $(OUT),bin/soak).svg; exit $$status

.PHONY: fault
fault: postgres ## inject the faults of docs/fault-matrix.md (ROW=12 for one, BEARMQ_FAULT_LONG=1 in full)
	@./scripts/package libfaketime
	$(GOTEST) -race -tags fault -run '^TestFault$$/^$(ROW)|^Test[^F]' ./internal/fault

.PHONY: model
model: postgres ## play random steps against a model for longer (CHECKS=1000, STEPS=40)
	go test -count=1 -v -timeout=$(TIMEOUT) -run '^TestModel$$' ./internal/model -rapid.checks=$(or $(CHECKS),1000) -rapid.steps=$(or $(STEPS),40)

.PHONY: fuzz
fuzz: postgres ## fuzz one target (PKG=./internal/store RUN=FuzzFinish FOR=60s)
	go test -run '^$$' -fuzz '^$(RUN)$$' -fuzztime $(or $(FOR),60s) $(PKG)

.PHONY: stress
stress: postgres ## attack the library with six producers and four workers that die (JOBS=200000, SEED=1)
	BEARMQ_STRESS_JOBS=$(or $(JOBS),200000) BEARMQ_STRESS_SEED=$(SEED) go test -count=1 -v -timeout=$(TIMEOUT) -run '^TestStress$$' ./internal/stress

.PHONY: bench
bench: postgres ## run the Go benchmarks of the library
	go test -run '^$$' -bench . -benchmem .

.PHONY: figures
figures: postgres ## measure docs/performance.md again, 90 minutes alone on the machine (ROWS="drain-1m latency")
	./scripts/figures $(ROWS)
	go run ./internal/plots

.PHONY: lint
lint: ## gofmt, go vet and staticcheck on every module
	@unformatted="$$(gofmt -l $(MODULES))"; \
	if [ -n "$$unformatted" ]; then echo "not formatted, run gofmt -w on:"; echo "$$unformatted"; exit 1; fi
	go vet -tags $(TAGS) $(PACKAGES)
	go run $(STATICCHECK) -tags $(TAGS) $(PACKAGES)

.PHONY: clean
clean: ## remove what was built
	rm -rf bin

# Always asked for: go build knows best whether anything has changed. Without
# the commit in it, for which go build asks git, and fails in a checkout of
# another user's.
.PHONY: bin/bearmq
bin/bearmq:
	go build -buildvcs=false -o bin/bearmq ./cmd/bearmq

# PostgreSQL's programs, installed when they are missing and may be.
.PHONY: postgres
postgres:
	@./scripts/postgres
