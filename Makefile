# What people and CI type. Nothing but the tests and fuzzing needs more than Rust >= 1.95, a C compiler and make.

CARGO ?= cargo

.PHONY: help demo test check format lints dependencies bench backtest-bench measure goldens fuzz simulate million

help: ## Say what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-14s  %s\n", $$1, $$2 }'

demo: ## Replay the reference incident, from the blocked metadata service to the healthy replacement
	$(CARGO) run --release --locked --quiet -- replay events/01-metadata-service-blocked

# Clippy's driver is the compiler with more lints. Under it, what is tested is looked at while it is built; Clippy by itself would
# read every dependency once more, which took three and a half minutes (ADR 23).
LINTED = RUSTC_WORKSPACE_WRAPPER=clippy-driver CLIPPY_ARGS=-Dwarnings

test: format lints dependencies ## Everything that CI runs
	$(LINTED) $(CARGO) test --workspace --all-targets --all-features --locked --quiet --no-run
	$(LINTED) $(CARGO) test --workspace --all-features --locked --quiet
	$(CARGO) test --profile simulation --locked --quiet -p nodemend-simulation
	./tests/infra.sh
	FUZZ_SEED=1 ./tests/fuzz.sh functions/fuzz

check: format dependencies ## Format, lints, and what may depend on what
	$(CARGO) clippy --workspace --all-targets --all-features --locked --quiet -- -D warnings

format:
	$(CARGO) fmt --all --check

lints:
	$(LINTED) ./tests/lints.sh

dependencies:
	./tests/dependencies.sh

bench: ## The figures of the README
	$(CARGO) bench --locked --benches -p nodemend-agent -p nodemend-adapters -p nodemend-intake -p nodemend-repair

backtest-bench: ## Backtest a made-up month of 1,000 nodes (NODES, DAYS): seconds, MB/s, memory
	$(CARGO) build --release --locked --quiet -p nodemend
	$(CARGO) run --release --locked --quiet -p nodemend-history -- target/release/nodemend target

measure: ## From deadline to call over 200 repairs in the local stack; size, start and memory of each function
	$(CARGO) build --release --locked --features lambda -p nodemend-intake -p nodemend-repair -p nodemend-audit -p nodemend-drain
	NODEMEND_FUNCTIONS="$(CURDIR)/target/release" $(CARGO) test --workspace --all-features --locked --test measure -- --ignored --nocapture

goldens: ## Write the replays' goldens anew; the diff is for review
	UPDATE_GOLDEN=1 $(CARGO) test --locked --test replay every_incident_reads_as_its_golden

SEEDS ?= 10000
FROM ?= 0

simulate: ## Run SEEDS random schedules of the whole service from seed FROM on, and shrink the first that fails
	$(CARGO) run --profile million --locked --quiet -p nodemend-simulation -- --seeds $(SEEDS) --from $(FROM)

million: ## A million schedules by a simulation that the compiler has seen at work: the figure for schedules a core-second
	./tests/million.sh

fuzz: ## Each reader of outside bytes under libFuzzer for FUZZ_SECONDS (60), or those of FUZZ="functions/fuzz rule_file"
	./tests/fuzz.sh $(FUZZ)
