#!/bin/sh
# That warnings are refused under Clippy's driver, by the very words that `make test` builds with: a lint that can't fail is none.
set -eu

: "${RUSTC_WORKSPACE_WRAPPER:?is what make test sets}"
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
# Into a folder of its own: as root, rustc puts a file in the place of /dev/null.
lint() {
    echo "$1" >"$out/f.rs"
    "$RUSTC_WORKSPACE_WRAPPER" rustc --edition 2024 --crate-type lib --emit=metadata --out-dir "$out" "$out/f.rs" >"$out/told" 2>&1
}

lint 'pub fn f() -> u8 { 1 }' || { echo "lints: $RUSTC_WORKSPACE_WRAPPER refuses what is well" >&2; exit 1; }
if lint 'pub fn f() -> u8 { return 1; }'; then
    echo "lints: $RUSTC_WORKSPACE_WRAPPER lets a warning through" >&2
    exit 1
fi
echo "lints: a warning is refused"
