#!/bin/sh
# SEEDS schedules (a million) from seed FROM (0) on, over all processors, by a simulation that the compiler has seen at work: it lays the
# code out by how often each part ran in four thousand other schedules, which a million more make up for.
set -eu
cd "$(dirname "$0")/.."

profdata=$(rustc --print target-libdir)/../bin/llvm-profdata
if [ ! -x "$profdata" ]; then
    echo "million: needs the compiler's own llvm-profdata: rustup component add llvm-tools" >&2
    exit 64
fi
# A path may hold spaces. The binary is for this machine alone.
build() {
    CARGO_ENCODED_RUSTFLAGS=$(printf '%s\037%s' "$1" -Ctarget-cpu=native) \
        "${CARGO:-cargo}" build --profile million --locked --quiet -p nodemend-simulation --target-dir target/trained
}

seen=$PWD/target/trained/seen
rm -rf "$seen"
echo "million: building, training, and building again: some minutes" >&2
build "-Cprofile-generate=$seen"
# Far from the seeds that are asked for; threads would miscount.
target/trained/million/simulate --threads 1 --seeds 4000 --from 1000000000000
"$profdata" merge -o "$seen.profdata" "$seen"
build "-Cprofile-use=$seen.profdata"
# What one schedule frees, the next one takes: nothing is given back to the kernel meanwhile.
export MIMALLOC_PURGE_DELAY=-1
exec target/trained/million/simulate --seeds "${SEEDS:-1000000}" --from "${FROM:-0}"
