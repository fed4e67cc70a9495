#!/usr/bin/env bash
# Tests of the science with the oldest packages that pyproject.toml promises, torch among them.
# An argument is a Python and one a torch, to try another pair: oldest.sh 3.13 2.11
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
uv venv --quiet --python "${1:-3.11}" "$out/oldest"
what=(. pytest pytest-timeout hypothesis beartype torchmetrics jsonschema pyyaml)
# Without the project's pins: they are the newest that were tested.
if [[ $# == 2 ]]; then
  uv pip install --quiet --no-config --python "$out/oldest/bin/python" "${what[@]}" "torch==$2.*"
else
  uv pip install --quiet --no-config --python "$out/oldest/bin/python" \
    --resolution lowest-direct "${what[@]/pyyaml/pyyaml>=6.0.1}"
fi
"$out/oldest/bin/python" -c 'import sys, torch, numpy; print("python", sys.version.split()[0], "torch", torch.__version__, "numpy", numpy.__version__)'
OMP_NUM_THREADS=1 "$out/oldest/bin/python" -m pytest -m "not slow" -p no:cacheprovider \
  tests/geometry tests/learning tests/methods tests/engines/test_local.py
