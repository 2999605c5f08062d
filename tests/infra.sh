#!/bin/sh
# Tests what is deployed: the template, the chart, the construct and the documents, each against the programs themselves. The
# programs must be built, as `cargo test --workspace --all-features` does.
set -eu
cd "$(dirname "$0")/.."

# Pinned, in a virtual environment of our own. uv installs these 150 packages in seconds, where pip takes minutes.
pins=tests/infra/requirements.txt
if ! cmp -s "$pins" .venv/infra.pins; then
    [ -x .venv/bin/python ] || python3 -m venv .venv
    .venv/bin/pip install --quiet --require-hashes -r tests/requirements.txt
    .venv/bin/uv pip install --quiet --python .venv/bin/python --require-hashes -r "$pins"
    cp "$pins" .venv/infra.pins
fi
pins=tests/infra/local-stack.txt
if ! cmp -s "$pins" .venv/local-stack/infra.pins; then
    python3 -m venv .venv/local-stack
    .venv/bin/uv pip install --quiet --python .venv/local-stack/bin/python --require-hashes -r "$pins"
    cp "$pins" .venv/local-stack/infra.pins
fi
exec .venv/bin/python -m pytest -q -p no:cacheprovider -n 2 --dist loadfile tests/infra "$@"
