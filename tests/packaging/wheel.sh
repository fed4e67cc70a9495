#!/usr/bin/env bash
# Build the wheel, install it in a clean environment with the tested versions, and use it: smoke.sh. What was installed is listed in
# dist/fedloge.cdx.json: sbom.sh.
# An argument is a Python to do it with: wheel.sh 3.13
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
uv build --quiet --wheel --out-dir "$out"
uv venv --quiet --python "${1:-3.11}" "$out/clean"
uv export --quiet --no-hashes --no-emit-project --no-dev --format requirements-txt >"$out/constraints.txt"
uv pip install --quiet --python "$out/clean/bin/python" --constraint "$out/constraints.txt" "$out"/*.whl
bash tests/packaging/smoke.sh "$out/clean/bin/python"
bash tests/packaging/sbom.sh "$out/clean/bin/python" dist/fedloge.cdx.json
