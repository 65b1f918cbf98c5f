# `make` without a target lists the targets.

AMENDS := $(or $(CARGO_TARGET_DIR),target)/debug/amends
RELEASE := $(or $(CARGO_TARGET_DIR),target)/release
ARGS ?=
SEEDS ?= 10000
FIRST ?= 1

ORDERS ?= 2000
ORDERS_KEPT ?= 1000000
EVENTS_RECORDED ?= 1000000
SEED ?= 1

.PHONY: help run test history notifications newer-postgres citus simulate mutants fuzz bench guard campaign network crash-points limits build lint fmt deny real-kafka charts files containers traces schemathesis breaking-changes client asyncapi bootstrap

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

run: build ## start everything on this machine and run the sample orders (ARGS=--once ends after them; ARGS=--traces: with a collector and Zipkin)
	@exec $(if $(filter --traces,$(ARGS)),scripts/traces --with) $(AMENDS) dev --samples $(filter-out --traces,$(ARGS))

test: bootstrap ## run all tests, and say how many passed
	@scripts/test

history: bootstrap ## measure upkeep and lists with ORDERS_KEPT=n orders in the tables (a million: some minutes, 2 GB)
	@AMENDS_TEST_ORDERS=$(ORDERS_KEPT) cargo test -p amends-orders --test history --test many -- --nocapture --test-threads 1

notifications: bootstrap ## record, send and publish EVENTS_RECORDED=n events for customers: only the notifications' table may grow (a million took 42 minutes beside other work)
	@AMENDS_TEST_EVENTS=$(EVENTS_RECORDED) cargo test -p amends-notification --test growth -- --nocapture

newer-postgres: bootstrap ## run the tests of all that speaks to Postgres on version 18 (needs Python; ARGS goes to cargo test)
	@scripts/newer-postgres $(ARGS)

citus: bootstrap ## run the tests on the Citus whose coordinator AMENDS_TEST_CITUS names (docs/SCALING.md)
	@test -n "$$AMENDS_TEST_CITUS" || { echo "AMENDS_TEST_CITUS is not set"; exit 2; }
	@cargo test -p amends-postgres --test citus --test sentinel --test epochs --test events -- --nocapture
	@cargo test -p amends-orders --test claims --test personal --test answers --test returns -- --nocapture
	@cargo test -p amends-api --test processes -- --nocapture --test-threads 1 migrating:: distributed::

bench: ## run the benchmark on this machine (ARGS=--quick: under six minutes; ARGS=--help; needs Java and maven)
	@AMENDS_TEST_REAL_KAFKA=1 scripts/bootstrap
	@cargo build --release -p amends-api -p amends-bench
	@exec $(RELEASE)/amends-bench $(ARGS)

guard: ## count instructions, WAL and commits of an order, and compare with the baseline (ARGS=--write: a new one)
	@AMENDS_GUARD=1 scripts/bootstrap
	@cargo build --release -p amends-guard
	@exec $(RELEASE)/amends-guard $(ARGS)

simulate: bootstrap ## run SEEDS=n seeds of the simulator, from FIRST=seed (or ARGS="--seed N", "--shrink N", "--exhaustive")
	@cargo build --release -p amends-sim
	@exec $(RELEASE)/amends-sim --seeds $(SEEDS) --first $(FIRST) $(ARGS)

mutants: bootstrap ## plant bugs, one at a time, and show which check catches each (ARGS="07 refund": only those; SEEDS)
	@SEEDS=$(if $(filter file,$(origin SEEDS)),3000,$(SEEDS)) scripts/mutants $(ARGS)

fuzz: bootstrap ## fuzz every decoder, ten minutes each (ARGS="messages orders": only those; SECONDS_EACH)
	@scripts/fuzz $(ARGS)

build: bootstrap ## build the program `amends`
	@cargo build --workspace

lint: bootstrap ## check the format, and run clippy on everything
	@cargo fmt --all --check
	@cargo clippy --workspace --all-targets -- -D warnings

fmt: ## format the code
	@cargo fmt --all

deny: ## check dependencies' licenses, sources and bans (needs cargo-deny)
	@cargo deny check bans licenses sources

campaign: ## place orders while faults occur, then check the books (ORDERS=2000 SEED=1 FAULTS=… LEAST=… CITUS=postgres://…; needs Java and maven)
	@AMENDS_TEST_REAL_KAFKA=1 scripts/bootstrap
	@cargo build --release -p amends-api -p amends-proof
	@$(RELEASE)/amends-campaign --orders $(ORDERS) --seed $(SEED) \
		$(if $(FAULTS),--faults $(FAULTS)) $(if $(LEAST),--least $(LEAST)) $(if $(CITUS),--citus $(CITUS))

network: ## run each process in a network namespace of its own, cut any two off from each other, then check the books (ORDERS SEED ARGS="--longest 20"; root, Java, maven)
	@AMENDS_TEST_REAL_KAFKA=1 AMENDS_NAMESPACES=1 scripts/bootstrap
	@cargo build --release -p amends-api -p amends-proof
	@scripts/real-kafka --fetch
	@$(if $(filter 0,$(shell id -u)),,sudo --preserve-env=CARGO_TARGET_DIR) $(RELEASE)/amends-network --orders $(ORDERS) --seed $(SEED) $(ARGS)

crash-points: ## kill processes at named points, then check the books (ROLE=engine: only that; needs Java and maven)
	@AMENDS_TEST_REAL_KAFKA=1 scripts/bootstrap
	@cargo build --release -p amends-api --features failpoints
	@cp $(RELEASE)/amends $(RELEASE)/amends-failpoints
	@cargo build --release -p amends-api -p amends-proof
	@$(RELEASE)/amends-crash-points $(if $(ROLE),--role $(ROLE))

limits: ## measure the limits of a deployment (ARGS="overdue storm": only those; needs Java and maven)
	@AMENDS_TEST_REAL_KAFKA=1 scripts/bootstrap
	@cargo build --release -p amends-api -p amends-proof
	@$(RELEASE)/amends-limits $(ARGS)

charts: ## check the Helm chart, the plain manifests and the alerts (ARGS=--update writes snapshots and manifests; needs Go)
	@scripts/charts $(ARGS)

containers: ## build our image and run docker-compose.yml by podman (root on Debian; ARGS="--prebuilt FILE")
	@scripts/containers $(ARGS)

schemathesis: build ## send requests made from the OpenAPI document to a live `amends dev` (ARGS="--requests 20000"; needs Python)
	@scripts/schemathesis $(ARGS)

breaking-changes: ## compare the OpenAPI document with that of the last commit (ARGS=v0.1.0: of another one; needs Go)
	@scripts/breaking-changes $(ARGS)

client: build ## check and test the TypeScript client against a live `amends dev` (ARGS=--update writes its types; needs Node 20)
	@scripts/client $(ARGS)

asyncapi: ## check api/asyncapi.json by AsyncAPI's own parser (needs Node 20)
	@scripts/asyncapi

files: ## check workflows, Dockerfile, compose, scripts and migrations (needs Go and Python)
	@scripts/files

real-kafka: ## run a real Apache Kafka on a free port until Ctrl-C (needs Java and maven)
	@scripts/real-kafka

traces: ## run a real OpenTelemetry Collector and a real Zipkin until Ctrl-C (needs Go, Java and maven)
	@scripts/traces

bootstrap: ## install missing packages on Debian or Ubuntu
	@scripts/bootstrap
