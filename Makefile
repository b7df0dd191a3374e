# BearMQ for Go. `make` lists the targets.

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

# Every module of go.work: a new one is tested and checked without a change here.
MODULES  = $(shell go list -m -f '{{.Dir}}')
PACKAGES = $(MODULES:%=%/...)

# Runs of each test, and a pattern of tests: make race COUNT=10 RUN=TestGroup
COUNT ?= 1
RUN   ?= .
# The longest that one package's tests may take.
TIMEOUT ?= 20m

GOTEST = go test -shuffle=on -count=$(COUNT) -timeout=$(TIMEOUT)

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z0-9-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

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

.PHONY: mutants
mutants: postgres ## check that the model tests notice planted faults
	$(GOTEST) -v -run '^TestMutant' $(PACKAGES)

.PHONY: stress
stress: postgres ## attack the library with six producers and four workers that die (JOBS=200000, SEED=1)
	BEARMQ_STRESS_JOBS=$(or $(JOBS),200000) BEARMQ_STRESS_SEED=$(SEED) go test -count=1 -v -timeout=$(TIMEOUT) -run '^TestStress$$' ./internal/stress

.PHONY: bench
bench: postgres ## run the Go benchmarks of the library
	go test -run '^$$' -bench . -benchmem .

.PHONY: lint
lint: ## gofmt, go vet and staticcheck on every module
	@unformatted="$$(gofmt -l $(MODULES))"; \
	if [ -n "$$unformatted" ]; then echo "not formatted, run gofmt -w on:"; echo "$$unformatted"; exit 1; fi
	go vet $(PACKAGES)
	go run $(STATICCHECK) $(PACKAGES)

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
