# Almanac. `make help` lists the targets. They need Go, make, git and, for the
# console, Node; with a C compiler the tests also run under the race detector.

SHELL := /bin/sh
.SHELLFLAGS := -eu -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.NOTPARALLEL:

# Static binaries, the same here as in a container; only -race wants cgo.
export CGO_ENABLED := 0
export GOFLAGS ?= -buildvcs=false

# The modules of go.work, then those outside it, whose dependencies would
# otherwise decide the versions that the services run with.
MODULES := $(shell sed -n 's|^[[:space:]]*\./||p' go.work)
ALONE   := deploy/standin proto/tools/thirdparty examples/hello
TOOLS   := proto/tools/buf proto/tools/gen deploy/tools/lint

# The whole-system tests start the binaries, so they run after the others.
SYSTEM := deploy/local
# Checks of the repository itself; `make verify` runs them.
RULES  := ./deploy/verify/rules
UNIT    = $(patsubst %,./%/...,$(filter-out $(SYSTEM) deploy/verify,$(MODULES))) ./deploy/verify/cover
# Where goroutines share state, and the race detector earns its time.
RACE := services/registry/internal/dispatch services/registry/internal/store services/registry/internal/api \
	services/executor/internal/session services/executor/internal/children

# One goroutine each, and much to compute, so not under the race detector.
SIMULATION  := ./services/registry/internal/dispatch
SIMULATIONS := ^(TestSimulation|TestOwnershipOfALargeFleet)$$

# Every command of ours. The runner never counts coverage: it has an empty
# environment, so it could not say where to.
COMMANDS  = $(patsubst %,./%,$(filter-out %/cmd/runner,$(wildcard services/*/cmd/* deploy/local/cmd/*)))
RUNNER   := ./services/executor/cmd/runner

# The console, what its sources are, and where the registry embeds it from.
CONSOLE := services/console
BUILT   := services/registry/internal/console/dist/index.html
PAGES    = $(shell find $(CONSOLE)/src $(CONSOLE)/build $(CONSOLE)/public -type f ! -name '*.test.*' ! -name schema.d.ts) \
	$(addprefix $(CONSOLE)/,index.html vite.config.ts tsconfig.json package.json) proto/gen/openapi/almanac.swagger.json
# Vite asks for this Node.
NODE := node -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 20 || a === 20 && b >= 19 ? 0 : 1)'

# `make test` replaces these two, for binaries that count coverage.
BIN   := bin
BUILD := -trimpath

# -short makes show-fleet smaller.
SHORT :=

COUNT := -covermode=atomic -coverpkg=github.com/almanac-scheduler/almanac/...
COVERAGE_AT_LEAST := 85
LINT := $(CURDIR)/bin/golangci-lint --config=$(CURDIR)/.golangci.yml
# Runs a test command and leaves out its shares of all our code, which say
# nothing before they are joined.
TELL = rm -f coverage/failed; { $(1) || : >coverage/failed; } | sed -e 's/[[:space:]]*coverage: [^[:space:]]* of statements.*//' \
	-e '/\[no test files\]$$/d' -e '/^[[:space:]]*github.com[^[:space:]]*$$/d'; \
	if test -e coverage/failed; then rm coverage/failed; exit 1; fi
# What the measured coverage belongs to: every tracked or new file but the documents.
STATE := { git ls-files -zco --exclude-standard -- . ':!docs' ':!*.md' | xargs -0 sha256sum 2>/dev/null || true; } | sha256sum

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- run ---------------------------------------------------------------------

.PHONY: build
build: console ## build the console and all binaries into bin/
	@mkdir -p $(BIN)
	@go build $(BUILD) -o $(BIN)/ $(COMMANDS)
	@go build -trimpath -o $(BIN)/ $(RUNNER)
	@GOWORK=off go build -C examples/hello -trimpath -o $(CURDIR)/$(BIN)/ .
	@$(MAKE) standin BIN="$(BIN)" BUILD="$(BUILD)"

# Without Node everything is built but the console, and the registry's page says so.
.PHONY: console
console: ## build the web console into the registry
	@if command -v npm >/dev/null && $(NODE); then $(MAKE) --silent $(BUILT); \
	else echo 'NOTE: there is no Node (20.19 or later) with npm, so the registry is built without its console.'; fi

$(BUILT): $(CONSOLE)/node_modules/.package-lock.json $(PAGES)
	@echo 'building the console'
	@mkdir -p $(CONSOLE)/.generated
	@cd $(CONSOLE) && npm run --silent build >.generated/build.log 2>&1 || { cat .generated/build.log; exit 1; }; grep " kB  index.html" .generated/build.log

$(CONSOLE)/node_modules/.package-lock.json: $(CONSOLE)/package-lock.json $(CONSOLE)/package.json $(CONSOLE)/.npmrc
	@echo 'fetching what the console is made of (once)'
	@cd $(CONSOLE) && PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1 npm ci --loglevel=error
	@touch $@

.PHONY: standin
standin: .cache/standin/go.mod
	@mkdir -p $(BIN)
	@GOWORK=off go build -C deploy/standin $(BUILD) -modfile=$(CURDIR)/.cache/standin/go.mod -o $(CURDIR)/$(BIN)/ .

# FerretDB with a patch, without which a fleet drowns it in a minute: it looks a
# document up by its _id whatever else the filter says, instead of reading all of
# them, and remembers what it decoded. It also takes arrays in arrays, as MongoDB.
.cache/standin/go.mod: deploy/standin/go.mod deploy/standin/go.sum deploy/standin/FerretDB.patch
	@rm -rf $(@D)
	@mkdir -p $(@D)
	@folder=$$(GOWORK=off go list -C deploy/standin -f '{{.Module.Dir}}' github.com/FerretDB/FerretDB/ferretdb); \
	cp -R "$$folder" $(@D)/FerretDB; \
	chmod -R u+w $(@D)
	@git apply --directory=$(@D)/FerretDB deploy/standin/FerretDB.patch
	@cp deploy/standin/go.sum $(@D)/go.sum
	@{ cat deploy/standin/go.mod; echo 'replace github.com/FerretDB/FerretDB => $(CURDIR)/$(@D)/FerretDB'; } >$@

.PHONY: run
run: build ## build, then start the local system (STORE=mongodb REPLICAS=2 EXECUTORS=4); Ctrl-C stops it
	@exec bin/almanac-local run $(if $(STORE),--store "$(STORE)") $(if $(REPLICAS),--replicas "$(REPLICAS)") $(if $(EXECUTORS),--executors "$(EXECUTORS)")

.PHONY: demo
demo: build ## show exports, mail, webhooks, backups, alerts and reports on a system of its own, and count the checks
	@exec bin/almanac-local demo

# --- test --------------------------------------------------------------------

.PHONY: test
test: BIN   := .cache/counting
test: BUILD := -trimpath -cover $(COUNT)
test: export GOCOVERDIR := $(CURDIR)/.cache/counted
test: SHORT := -short
test: test-begin test-unit test-system test-show show-fleet test-browser test-end ## run every test, with coverage

.PHONY: test-begin
test-begin:
	@rm -rf coverage $(GOCOVERDIR)
	@mkdir -p coverage $(GOCOVERDIR)
	@date +%s >coverage/begun
	@$(STATE) >coverage/tested

.PHONY: test-unit
test-unit: export ALMANAC_STANDIN_BIN = $(abspath $(BIN))/standin
test-unit: build
	@mkdir -p coverage
	@pattern=$$(echo $(RACE) | sed 's/  */|/g'); \
	all=$$(go list $(UNIT)); \
	raced=$$(printf '%s\n' "$$all" | grep -E "/($$pattern)(/|$$)" || true); \
	plain=$$(printf '%s\n' "$$all" | grep -vE "/($$pattern)(/|$$)" || true); \
	race=; cgo=0; \
	if command -v "$$(CGO_ENABLED=1 go env CC)" >/dev/null; then race=-race; cgo=1; \
	else echo 'NOTE: there is no C compiler, so the race detector is off.'; fi; \
	echo '== unit and conformance tests'; \
	$(call TELL,go test $(COUNT) -coverprofile=coverage/unit.out $$plain); \
	if test -n "$$raced"; then \
		echo "== the same, where goroutines share state ($${race:-no race detector})"; \
		$(call TELL,CGO_ENABLED=$$cgo go test $$race -skip '$(SIMULATIONS)' $(COUNT) -coverprofile=coverage/raced.out $$raced); \
	fi
	@echo '== simulation'
	@$(call TELL,go test -run '$(SIMULATIONS)' $(COUNT) -coverprofile=coverage/simulation.out $(SIMULATION))
	@for module in $(ALONE); do \
		echo "== $$module"; \
		$(call TELL,GOWORK=off go test -C $$module $(COUNT) -coverprofile=$(CURDIR)/coverage/$$(basename $$module).out ./...); \
	done

.PHONY: test-console
test-console: console
	@$(NODE) || { echo 'The tests of the console need Node 20.19 or later, with npm.'; exit 1; }
	@echo '== console: types and unit tests'
	@cd $(CONSOLE) && npm run --silent check && npm run --silent test

# The one computes while the other waits for clocks.
.PHONY: test-show
test-show: build
	@$(MAKE) test-console >coverage/console.log 2>&1 & console=$$!; \
	failed=; $(MAKE) show BIN="$(BIN)" BUILD="$(BUILD)" || failed=1; wait $$console || failed=1; \
	cat coverage/console.log; test -z "$$failed"

.PHONY: test-browser
test-browser: build ## drive the console of a real system with a real browser
	@$(NODE) || { echo 'The tests of the console need Node 20.19 or later, with npm.'; exit 1; }
	@deploy/tools/packages chromium
	@echo '== the console in a browser'
	@cd $(CONSOLE) && ALMANAC_BIN=$(abspath $(BIN)) npm run --silent browser

.PHONY: test-system
test-system: build
	@echo '== whole-system tests of the real binaries'
	@$(call TELL,ALMANAC_BIN=$(CURDIR)/$(BIN) go test -count=1 -skip '^TestShow' $(COUNT) -coverprofile=coverage/system.out ./$(SYSTEM)/...)

.PHONY: show
show: build ## show the first promises on a system of its own, step by step
	@mkdir -p coverage
	@echo '== what a first user sees'
	@$(call TELL,ALMANAC_BIN=$(CURDIR)/$(BIN) go test -count=1 -v -run '^TestShow$$' $(COUNT) -coverprofile=coverage/show.out ./$(SYSTEM)/system)

.PHONY: show-fleet
show-fleet: build ## show what a fleet promises: kill a registry and an executor, count the runs
	@mkdir -p coverage
	@echo '== what a fleet does when its processes die'
	@$(call TELL,ALMANAC_BIN=$(CURDIR)/$(BIN) go test -count=1 -v $(SHORT) -run '^TestShowFleet$$' $(COUNT) -coverprofile=coverage/show-fleet.out ./$(SYSTEM)/system)

.PHONY: test-end
test-end:
	@go tool covdata textfmt -i=$(GOCOVERDIR) -o=coverage/binaries.out
	@go run ./deploy/verify/cover -total coverage/*.out
	@mv coverage/tested coverage/state
	@echo "== all tests passed in $$(( $$(date +%s) - $$(cat coverage/begun) )) s"

.PHONY: simulate
simulate: ## simulate SEEDS=n seeds of crashes, losses and reorderings
	@ALMANAC_SIM_SEEDS=$(SEEDS) go test -count=1 -v -timeout 0 -run '^TestSimulation$$' $(SIMULATION)

.PHONY: bench
bench: build ## measure throughput and lateness, and print them
	@exec bin/almanac-local bench

.PHONY: counted
counted:
	@test "$$($(STATE))" = "$$(cat coverage/state 2>/dev/null)" || $(MAKE) test

.PHONY: cover
cover: counted ## print the coverage, per package and in total
	@go run ./deploy/verify/cover coverage/*.out

.PHONY: cover-check
cover-check: counted
	@go run ./deploy/verify/cover -total -at-least $(COVERAGE_AT_LEAST) coverage/*.out

# --- generate ----------------------------------------------------------------

# Tools are built once, and again when their versions change.
bin/buf: proto/tools/buf/go.mod proto/tools/buf/go.sum
bin/protoc-gen-go: proto/tools/gen/go.mod proto/tools/gen/go.sum
bin/golangci-lint: deploy/tools/lint/go.mod deploy/tools/lint/go.sum
bin/buf bin/protoc-gen-go bin/golangci-lint:
	@echo "building the tools of $(<D) (once)"
	@mkdir -p bin
	@GOWORK=off go build -C $(<D) -o $(CURDIR)/bin/ tool
	@touch $@

# Other people's .proto files, as their Go packages describe them.
proto/third_party: proto/tools/thirdparty/main.go proto/tools/thirdparty/go.mod
	@GOWORK=off go run -C proto/tools/thirdparty . $(CURDIR)/proto/third_party
	@touch $@

.PHONY: generate
generate: bin/buf bin/protoc-gen-go proto/third_party ## generate Go and OpenAPI from proto/, and docs/templates.md
	@bin/buf generate
	@mkdir -p .cache
	@go run ./services/executor/internal/builtin/reference >.cache/templates.md && mv .cache/templates.md docs/templates.md

.PHONY: proto-lint
proto-lint: bin/buf proto/third_party
	@bin/buf lint

.PHONY: proto-breaking
proto-breaking: bin/buf proto/third_party ## compare the protocol with its committed baseline
	@mkdir -p .cache
	@bin/buf build --path proto/almanac -o .cache/protocol.binpb
	@bin/buf breaking .cache/protocol.binpb --against proto/baseline.binpb || { \
		echo 'The protocol breaks its clients. If that is meant: make proto-baseline'; exit 1; }

.PHONY: proto-baseline
proto-baseline: bin/buf proto/third_party ## accept the present protocol as the baseline
	@bin/buf build --path proto/almanac --exclude-source-info -o proto/baseline.binpb

# --- verify ------------------------------------------------------------------

.PHONY: verify
verify: proto-lint proto-breaking generate-check tidy-check rules lint cover-check ## check all that is not a test, and the coverage
	@echo '== verified'

.PHONY: generate-check
generate-check: generate
	@changes=$$(git status --porcelain -- proto/gen docs/templates.md); \
	test -z "$$changes" || { \
		git --no-pager diff HEAD -- proto/gen docs/templates.md | head -50; echo "$$changes"; \
		echo 'This is not what the committed .proto files and templates give: commit the outcome of make generate'; exit 1; }

.PHONY: tidy-check
tidy-check:
	@for module in $(MODULES) $(ALONE) $(TOOLS); do \
		GOWORK=off go mod tidy -C $$module -diff || { echo "$$module: run make tidy"; exit 1; }; \
	done
	@for module in $(MODULES) $(ALONE); do GOWORK=off go build -C $$module -o /dev/null ./...; done

.PHONY: rules
rules:
	@go test -count=1 $(RULES)

.PHONY: lint
lint: bin/golangci-lint ## lint every module
	@$(LINT) run --allow-serial-runners $(MODULES:%=./%/...)
	@for module in $(ALONE); do (cd $$module && GOWORK=off $(LINT) run --allow-serial-runners); done

.PHONY: tidy
tidy: bin/golangci-lint ## tidy every module and format all Go code
	@for module in $(MODULES) $(ALONE) $(TOOLS); do GOWORK=off go mod tidy -C $$module; done
	@$(LINT) fmt

.PHONY: clean
clean: ## remove what was built; the local system's data stays
	@rm -rf bin .cache coverage proto/third_party $(CONSOLE)/node_modules $(CONSOLE)/.generated
	@find $(dir $(BUILT)) -mindepth 1 ! -name .gitkeep -delete
