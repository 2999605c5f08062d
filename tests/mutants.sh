#!/bin/sh
# Mutants: deliberate faults (tests/mutants/NAME.patch) that the simulation must find.
#
#   tests/mutants.sh check           every patch applies to the working tree
#   tests/mutants.sh run [NAME...]   applies one after the other to a copy of the tree, and runs schedules until one finds it
#
# SEEDS (50000) is how many schedules a mutant gets, from seed 0 on. PART=2/3 runs the second third of the mutants.
set -eu
cd "$(dirname "$0")/.."
root=$PWD
work=$root/target/mutants
tree=$work/tree

fail() {
    echo "mutants: $1" >&2
    exit 1
}

check() {
    bad=0 count=0
    for patch in tests/mutants/*.patch; do
        count=$((count + 1))
        git apply --check "$patch" || bad=$((bad + 1))
        grep -q '^# what: ..*' "$patch" && grep -q '^# where: ..*' "$patch" || fail "$patch: lacks \"# what:\" or \"# where:\""
    done
    [ "$bad" -eq 0 ] || fail "$bad of $count patches do not apply: write the same fault into the new source (tests/README.md)"
    echo "mutants: $count patches apply"
}

# The names to run, in the order of the files that they change: neighbors rebuild the same crates.
select_mutants() {
    if [ $# -gt 0 ]; then
        for name in "$@"; do
            [ -f "tests/mutants/$name.patch" ] || fail "there is no mutant \"$name\""
            echo "$name"
        done
        return
    fi
    grep -H -m 1 '^+++ ' tests/mutants/*.patch | sed 's|^tests/mutants/\(.*\)\.patch:+++ |\1 |' | sort -k 2 -k 1 | cut -d ' ' -f 1 |
        awk -v part="${PART:-1/1}" 'BEGIN { split(part, p, "/") } { line[NR] = $0 }
            END { for (n = int((p[1] - 1) * NR / p[2]) + 1; n <= int(p[1] * NR / p[2]); n++) print line[n] }'
}

# Copies what git would commit. Times are kept, so that cargo rebuilds what has changed and no more.
copy_tree() {
    rm -rf "$tree"
    mkdir -p "$tree"
    # What is deleted and not yet committed is still listed.
    git ls-files -z --cached --others --exclude-standard |
        xargs -0 sh -c 'for file; do [ ! -f "$file" ] || printf "%s\0" "$file"; done' sh |
        tar --null -T - -cf - | tar -C "$tree" -xf -
}

build() {
    # A mutant is a few lines of one crate, whatever CI has set for its own builds.
    CARGO_INCREMENTAL=1 cargo build --manifest-path "$tree/Cargo.toml" --target-dir "$work/build" --locked --quiet \
        -p nodemend-simulation >"$work/build.log" 2>&1
}

# Runs SEEDS schedules; prints the seed that found a violation and its rule, or nothing.
simulate() {
    status=0
    "$work/build/debug/simulate" --seeds "$seeds" --no-shrink >"$work/run.log" 2>&1 || status=$?
    case $status in
        0) ;;
        1) sed -n 's/^violation: seed \([0-9]*\): /\1 /p' "$work/run.log" | head -n 1 ;;
        # A handler that panics is a fault that was found.
        *) sed -n 's/^simulate: panicked in the schedule of --seed \([0-9]*\).*/\1 a panic/p' "$work/run.log" | head -n 1 ;;
    esac
}

run() {
    case ${PART:-1/1} in */*) ;; *) fail "PART is like 1/3, not \"$PART\"" ;; esac
    seeds=${SEEDS:-50000}
    names=$(select_mutants "$@")
    [ -n "$names" ] || fail "no mutant is selected"
    check
    copy_tree
    # What an earlier run left in the target directory may hold a mutant that is newer than these files.
    grep -h '^+++ b/' tests/mutants/*.patch | sed 's|^+++ b/||' | sort -u | while read -r file; do touch "$tree/$file"; done

    build || { cat "$work/build.log" >&2; fail "the simulation does not build"; }
    found=$(simulate)
    [ -z "$found" ] || fail "without any mutant, there is a violation: seed $found"
    echo "mutants: none without a mutant in $seeds schedules"

    printf '%-32s %8s %8s  %s\n' mutant "by seed" seconds violation
    missed=0 count=0
    for name in $names; do
        count=$((count + 1)) started=$(date +%s)
        (cd "$tree" && GIT_CEILING_DIRECTORIES="$work" git apply "$root/tests/mutants/$name.patch")
        if build; then
            found=$(simulate)
            seed=${found%% *} rule=${found#* }
            [ -n "$found" ] || { seed=- rule="NOT FOUND in $seeds schedules" missed=$((missed + 1)); }
        else
            seed=- rule="DOES NOT BUILD: the end of $work/build-$name.log" missed=$((missed + 1))
            mv "$work/build.log" "$work/build-$name.log"
        fi
        (cd "$tree" && GIT_CEILING_DIRECTORIES="$work" git apply -R "$root/tests/mutants/$name.patch")
        printf '%-32s %8s %8s  %s\n' "$name" "$seed" "$(($(date +%s) - started))" "$rule"
    done
    [ "$missed" -eq 0 ] || fail "$missed of $count were not found"
    echo "mutants: all $count found"
}

command=${1:-}
[ $# -eq 0 ] || shift
case $command in
    check) check ;;
    run) run "$@" ;;
    *) sed -n 's/^#   //p' "$0" >&2; exit 64 ;;
esac
