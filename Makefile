# `make` alone prints this list. CI runs the targets that a person runs.

# Every target that needs servers brings them up first and runs with their settings.
LOCAL := scripts/local run
OVERDUE := target/debug/overdue
# What is built for development and tests: with the export of traces, so that it is tested.
FEATURES := --features overdue/otel
CARGO := cargo
# A build that is done once and as soon as it can be: neither optimised nor ready to be built upon.
QUICK := CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_OPT_LEVEL=0 CARGO_PROFILE_DEV_DEBUG=0
BENCH := scripts/bench

.DEFAULT_GOAL := help
.PHONY: help up down status clean env build release demo test faults fuzz test-schedules test-console test-rabbitmq-4 bench bench-more bench-alternatives bench-quick check fmt definitions

help: ## print this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: ## start a private RabbitMQ and PostgreSQL under .local/
	@scripts/local up

down: ## stop both, keep their data
	@scripts/local down

status: ## say what runs where
	@scripts/local status

clean: ## stop both and delete .local/
	@scripts/local clean

env: ## print the settings that reach them, as shell exports
	@scripts/local env

build: ## build everything (development profile)
	$(CARGO) build --workspace $(FEATURES)

release: ## build the program for production: target/release/overdue
	$(CARGO) build --release --package overdue

demo: ## watch some thousand orders be paid, cancelled and closed
	$(QUICK) $(CARGO) build --package overdue --package overdue-gateway-sim
	$(LOCAL) $(OVERDUE) demo

test: ## run everything that must hold, against real servers
	$(CARGO) build --workspace $(FEATURES)
	libraries="$$(scripts/libraries)" && env $$libraries $(LOCAL) $(CARGO) test --workspace $(FEATURES)

faults: ## kill, cut and fill everything, again and again, with orders flowing; prints what was lost (half an hour)
	$(CARGO) build --workspace $(FEATURES)
	libraries="$$(scripts/libraries)" && env $$libraries OVERDUE_FAULT_ROUNDS=$${OVERDUE_FAULT_ROUNDS:-5} \
	  $(LOCAL) $(CARGO) test --workspace $(FEATURES) --test faults -- --nocapture

fuzz: ## feed what reads messages with whatever bytes, for a minute
	scripts/fuzz 60

test-schedules: build ## ten thousand orders with random payments at two gateways, while processes are killed
	libraries="$$(scripts/libraries)" && env $$libraries OVERDUE_TEST_SCHEDULES=10000 $(LOCAL) $(CARGO) test --workspace $(FEATURES) --test promises -- schedules --nocapture

test-console: ## the console in a browser: all of it, with a million orders and sixty tabs; new pictures in docs/console/
	$(CARGO) build --workspace $(FEATURES)
	libraries="$$(scripts/libraries)" && env $$libraries OVERDUE_TEST_CONSOLE=all \
	  $(LOCAL) $(CARGO) test --workspace $(FEATURES) --test console -- --nocapture

test-rabbitmq-4: ## run all tests that need a broker on RabbitMQ 4.0.5, from a Debian 13 under .local/ (needs root)
	$(CARGO) build --workspace $(FEATURES)
	bin="$$(scripts/rabbitmq-4)" && libraries="$$(scripts/libraries)" && \
	export OVERDUE_RABBITMQ_BIN="$$bin" OVERDUE_LOCAL_DIR="$$PWD/.local/rabbitmq-4/servers" $$libraries && \
	trap 'scripts/local down' EXIT && $(LOCAL) $(CARGO) test --workspace $(FEATURES) --test promises --test faults

bench: ## measure speed beside the limits of the servers, on servers of its own: a table, JSON and plots in bench/results/
	@$(BENCH)

bench-more: ## the parts that `make bench` leaves out: relay, hot SKU, paid orders, partitions, backlog, gateway, scale
	@$(BENCH) --only relay,hot,paid,partitioned,backlog,gateway,scale --out bench/results/more

bench-alternatives: ## other ways to do the same, hops, and reads with and without caches (half an hour; installs redis-server)
	@$(BENCH) --only alternatives,hops,reads --out bench/results/alternatives

bench-quick: ## the same in small, for a first look
	@$(BENCH) --quick

check: ## formatting, lints, docs, the fuzz target, layers, circles, licences
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets $(FEATURES) -- --deny warnings
	RUSTDOCFLAGS='--deny warnings' $(CARGO) doc --workspace $(FEATURES) --no-deps --document-private-items
	$(CARGO) check --locked --manifest-path fuzz/Cargo.toml
	scripts/check-layers
	scripts/check-circles
	@if command -v cargo-deny >/dev/null; then $(CARGO) deny check bans licenses sources; \
	else echo "cargo-deny is not installed: licences, bans and sources are not checked"; fi

fmt: ## format the code
	$(CARGO) fmt --all

definitions: build ## write anew what the repository keeps of the code: topology, HTTP API
	$(OVERDUE) topology export >rabbitmq/definitions.json
	$(OVERDUE) topology users >rabbitmq/users.json
	$(OVERDUE) openapi >docs/api.openapi.json
