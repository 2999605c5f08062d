# What people and CI type. It needs Rust, a C compiler and make; `make test` also python3, nightly-fuzz a C++ compiler,
# nightly-browser npm and control-plane Go and etcd. tests/README.md says how long each target takes.

CARGO ?= cargo

.PHONY: help demo quick test test-rust test-infra format lints dependencies mutants-apply bench backtest-bench measure goldens simulate fuzz mutants \
    nightly nightly-simulation nightly-mutants nightly-fuzz nightly-chaos nightly-browser control-plane control-plane-record

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-20s %s\n", $$1, $$2 }'

demo: ## Replay the reference incident, from the blocked metadata service to the healthy replacement
	$(CARGO) run --release --locked --quiet -- replay events/01-metadata-service-blocked

# Clippy's driver is the compiler with more lints: it lints the tests while it builds them (ADR 23). `cargo clippy` would
# read every dependency once more.
LINTED = RUSTC_WORKSPACE_WRAPPER=clippy-driver CLIPPY_ARGS=-Dwarnings

QUICK = -p nodemend-domain -p nodemend-ports -p nodemend-intake -p nodemend-reconcile -p nodemend-repair -p nodemend-confirm
quick: format ## While you work: format, lints and tests of the domain and the handlers, without the AWS SDK
	$(LINTED) $(CARGO) test $(QUICK) --locked --quiet
	$(LINTED) $(CARGO) check -p nodemend-drain --lib --locked --quiet

# One profile and one set of features: nothing is built twice.
test: export NODEMEND_CHAOS_EVERY ?= 10
test: format lints dependencies mutants-apply ## Before you merge, and what CI runs: all tests, with a sample of simulation and chaos
	$(LINTED) $(CARGO) test --workspace --all-targets --all-features --locked --quiet --no-run
	$(MAKE) --jobs=2 $(if $(filter output-sync,$(.FEATURES)),--output-sync=target) test-rust test-infra

# Beside each other: both wait more than they work. Neither builds anything, and cargo needs no share of make's jobs.
test-rust:
	MAKEFLAGS= $(LINTED) $(CARGO) test --workspace --all-features --locked --quiet

test-infra:
	MAKEFLAGS= ./tests/infra.sh

format:
	$(CARGO) fmt --all --check

lints:
	$(LINTED) ./tests/lints.sh

dependencies:
	./tests/dependencies.sh

mutants-apply:
	./tests/mutants.sh check

nightly: nightly-simulation nightly-mutants nightly-fuzz nightly-chaos nightly-browser control-plane ## Everything that takes long; each part is a target of its own

nightly-simulation: ## A million schedules, and 20,000 that proptest chooses
	$(MAKE) simulate SEEDS=1000000
	$(LINTED) PROPTEST_CASES=20000 $(CARGO) test -p nodemend-simulation --test properties --locked --quiet

nightly-mutants: mutants ## The simulation finds every mutant

nightly-fuzz: fuzz ## libFuzzer on every decoder, a minute each

nightly-chaos: ## Kill each function before and after every await of a repair
	$(LINTED) $(CARGO) build --workspace --all-features --bins --locked --quiet
	$(LINTED) NODEMEND_CHAOS_EVERY=1 $(CARGO) test --workspace --all-features --locked --quiet --test chaos

nightly-browser: ## The page of `nodemend backtest` in a real browser, which npm installs
	$(LINTED) $(CARGO) test --workspace --all-features --locked --quiet --test page -- --ignored

control-plane: ## Verification, drain and RBAC against a real kube-apiserver on loopback; skipped without Go or etcd
	$(LINTED) ./tests/control_plane.sh

control-plane-record: ## Record the steps of a file as an incident: STEPS=steps.txt INCIDENT=events/40-name
	$(LINTED) NODEMEND_STEPS="$(STEPS)" NODEMEND_INCIDENT="$(INCIDENT)" ./tests/control_plane.sh a_recording_is_an_incident

SEEDS ?= 10000
FROM ?= 0
simulate: ## Run SEEDS random schedules of the whole service from seed FROM on, and shrink the first with a violation
	$(CARGO) run --profile simulation --locked --quiet -p nodemend-simulation -- --seeds $(SEEDS) --from $(FROM)

mutants: ## Run the simulation against the mutants in MUTANTS (all), or against PART=1/3 of them
	./tests/mutants.sh run $(MUTANTS)

fuzz: ## Run the decoders in FUZZ (all) under libFuzzer for FUZZ_SECONDS (60) each: FUZZ="functions/fuzz rule_file"
	./tests/fuzz.sh $(FUZZ)

goldens: ## Write the goldens of the replays again; the diff is for review
	UPDATE_GOLDEN=1 $(CARGO) test --locked --test replay every_incident_reads_as_its_golden

bench: ## Measure the figures in the README
	$(CARGO) bench --locked --benches -p nodemend-agent -p nodemend-ports -p nodemend-intake -p nodemend-repair

backtest-bench: ## Backtest a generated month of 1,000 nodes (NODES, DAYS): seconds, MB/s, memory
	$(CARGO) build --release --locked --quiet -p nodemend
	$(CARGO) run --release --locked --quiet -p nodemend-history -- target/release/nodemend target

measure: ## From deadline to call over 200 repairs in the local stack; size, start and memory of the functions
	$(CARGO) build --release --locked --features lambda -p nodemend-intake -p nodemend-reconcile -p nodemend-repair -p nodemend-confirm -p nodemend-drain
	NODEMEND_FUNCTIONS="$(CURDIR)/target/release" $(CARGO) test --workspace --all-features --locked --test measure -- --ignored --nocapture
