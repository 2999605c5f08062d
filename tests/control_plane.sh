#!/bin/sh
# Builds the server of tests/control_plane, and runs the tests that need it, one after the other. Arguments select tests.
# Skipped by name where Go or etcd is missing.
set -eu
cd "$(dirname "$0")/.."

skip() {
    echo "control-plane: skipped: $1"
    exit 0
}

command -v go >/dev/null 2>&1 || skip "Go (1.24 or later) is not installed"
command -v etcd >/dev/null 2>&1 || skip "etcd is not installed (Debian and Ubuntu: etcd-server)"

folder=tests/control_plane/server
unformatted=$(gofmt -l "$folder")
[ -z "$unformatted" ] || { echo "control-plane: gofmt would change $unformatted" >&2; exit 1; }
# Else it reports v0.0.0, and clients take it for a very old one.
version=$(cd "$folder" && go list -m -f '{{.Version}}' k8s.io/kubernetes)
server=$PWD/target/control-plane/server
echo "control-plane: building Kubernetes $version (some 8 minutes of CPU the first time)"
(cd "$folder" && go build -trimpath -buildvcs=false -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$version" -o "$server" .)
test="${CARGO:-cargo} test --workspace --all-features --locked --quiet --test control_plane"
# Cargo builds the drain function's binary for a test of its crate.
$test --test drain --no-run
NODEMEND_CONTROL_PLANE=$server $test -- \
    --ignored --test-threads=1 --show-output "$@"
