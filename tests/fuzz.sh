#!/bin/sh
# Runs the targets of tests/fuzz under libFuzzer for FUZZ_SECONDS (60) each, as many at a time as there are processors: all of
# them, or those that are named (tests/fuzz.sh kernel_record pipeline). FUZZ_SEED repeats a run.
set -eu
cd "$(dirname "$0")/.."

fail() {
    echo "fuzz: $1" >&2
    exit 1
}

seconds=${FUZZ_SECONDS:-60}
# A new one for each run, so that each searches elsewhere; printed, so that a run can be repeated.
seed=${FUZZ_SEED:-$(date +%s)}
# To libFuzzer 0 means without end, and any seed.
for number in "$seconds" "$seed"; do
    case $number in '' | 0* | *[!0-9]*) fail "FUZZ_SECONDS and FUZZ_SEED must be numbers of at least 1, not \"$number\"" ;; esac
done

folder=tests/fuzz
known=$(for target in "$folder"/fuzz_targets/*.rs; do basename "$target" .rs; done)
# shellcheck disable=SC2086 # a list of words
[ $# -gt 0 ] || set -- $known
targets=""
for wanted in "$@"; do
    [ -f "$folder/fuzz_targets/$wanted.rs" ] || fail "there is no target \"$wanted\"; there are: $(echo $known)"
    targets="$targets $wanted"
done
# shellcheck disable=SC2086 # a list of words
targets=$(printf '%s\n' $targets | sort -u)

command -v "${CXX:-c++}" >/dev/null 2>&1 || fail "libFuzzer needs a C++ compiler: install one (Debian: apt-get install g++), or set CXX"

host=$(rustc -vV | sed -n 's/^host: //p')
# What cargo-fuzz asks of the compiler, which the stable one can do; a sanitizer it can't, and that looks for what safe
# code can't do. With --target the flags are not for build scripts and macros, which no input reaches.
RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
for feature in inline-8bit-counters pc-table trace-compares stack-depth; do
    RUSTFLAGS="$RUSTFLAGS -Cllvm-args=-sanitizer-coverage-$feature"
done
# Branches folded into one would look like one.
export RUSTFLAGS="$RUSTFLAGS -Cllvm-args=-simplifycfg-branch-fold-threshold=0"
# By name: a target that nothing builds would be the binary of an older build.
bins=""
for target in $targets; do bins="$bins --bin $target"; done
# shellcheck disable=SC2086 # a list of words
cargo build --locked --quiet --manifest-path "$folder/Cargo.toml" --target "$host" --target-dir "$folder/target" $bins

# The end of a log is to hold what broke, not how it got there.
export RUST_BACKTRACE=0
# The agent's targets write files, and libFuzzer ends without tidying up.
TMPDIR=$(mktemp -d)
export TMPDIR
workers=""
stop() {
    # shellcheck disable=SC2086 # a list of words
    [ -z "$workers" ] || kill $workers 2>/dev/null || :
    wait
    rm -rf "$TMPDIR"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# The value of libFuzzer's statistic $1 in the log $2.
statistic() {
    sed -n "s/^stat::$1: *//p" "$2" | tail -n 1
}

# Runs the target $1 and prints the result: one line, or some more if it failed.
run() {
    name=$1
    corpus=$folder/corpus/$name found=$folder/target/found/$name crashes=$folder/target/crashes
    log=$found.log binary=$folder/target/$host/debug/$name
    # From the kept corpus alone, as a seed can be repeated from nothing else.
    rm -rf "$found"
    mkdir -p "$found" "$crashes"
    started=$(date +%s)
    # An interrupt is for this script, which ends them all.
    "$binary" -seed="$seed" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -handle_int=0 \
        -print_final_stats=1 -artifact_prefix="$crashes/$name-" "$found" "$corpus" >"$log" 2>&1 &
    status=0
    wait $! || status=$?
    took=$(($(date +%s) - started))

    executions=$(statistic number_of_executed_units "$log")
    coverage=$(sed -n 's/^#.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
    # One that ran nothing but its corpus, or that ended before its time, has shown nothing.
    why=""
    if [ "$status" -ne 0 ]; then
        why="failed (exit status $status)"
    elif [ "${executions:-0}" -le "$(ls "$corpus" | wc -l)" ]; then
        why="tried nothing beyond its corpus"
    elif [ "$took" -lt "$seconds" ]; then
        why="ended after $took of $seconds s"
    fi
    row "$name" "${executions:--}" "$(or_dash "$(statistic average_exec_per_sec "$log")")" "${coverage:--}" \
        "$(or_dash "$(statistic new_units_added "$log")")" "$took s" "${why:+  $why}"
    [ -n "$why" ] || return 0

    reproducer=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
    {
        echo "fuzz: $name $why; the end of $log:"
        # What broke may hold what repaints a terminal.
        tail -n 25 "$log" | LC_ALL=C tr -c '[:print:]\n\t' '?' | cut -c 1-1000 | sed 's/^/    /'
        if [ -n "$reproducer" ]; then
            # The machine may be gone before anybody looks.
            echo "fuzz: $name: the input is $reproducer, and this is its base64:"
            base64 "$reproducer" | sed 's/^/    /'
            echo "fuzz: $name: to reproduce it: $binary $reproducer"
            echo "fuzz: $name: once it is fixed: cp $reproducer $corpus/, which \`cargo test --test fuzz_corpora\` runs from then on"
        fi
        echo "fuzz: $name: to search again: FUZZ_SEED=$seed FUZZ_SECONDS=$seconds tests/fuzz.sh $name"
    } >"$found.told"
    # At once, as others write, too.
    cat "$found.told" >&2
    return 1
}

or_dash() {
    echo "${1:--}"
}

row() {
    printf '%-24s %11s %9s %9s %6s %7s%s\n' "$@"
}

# Every $2th of the targets from $1 on, one after the other: each takes the same time.
work() {
    trap 'kill "${!:-}" 2>/dev/null || :; exit 143' TERM
    all=0 number=0
    for target in $targets; do
        if [ $((number % $2)) -eq "$1" ]; then run "$target" || all=1; fi
        number=$((number + 1))
    done
    exit $all
}

processors=$(getconf _NPROCESSORS_ONLN)
echo "fuzz: $seconds s each, $processors at a time, seed $seed"
row target executions a-second coverage new time ""
worker=0
while [ "$worker" -lt "$processors" ]; do
    (work "$worker" "$processors") &
    workers="$workers $!"
    worker=$((worker + 1))
done
result=0
for worker in $workers; do
    wait "$worker" || result=1
done
workers=""
exit $result
