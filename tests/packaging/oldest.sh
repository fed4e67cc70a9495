#!/usr/bin/env bash
# Tests of the science with the oldest packages that pyproject.toml promises, torch among them.
# An argument is a Python and one a torch, to try another pair: oldest.sh 3.13 2.11
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
uv venv --quiet --python "${1:-3.11}" "$out/oldest"
python=$out/oldest/bin/python
# Without the project's pins: they are the newest that were tested.
if [[ $# == 2 ]]; then
  uv pip install --quiet --no-config --python "$python" . "torch==$2.*"
else
  uv pip install --quiet --no-config --python "$python" --resolution lowest-direct .
fi
uv pip install --quiet --no-config --python "$python" \
  pytest pytest-timeout pytest-xdist hypothesis beartype torchmetrics jsonschema pyyaml
"$python" -c 'import sys, torch, numpy; print("python", sys.version.split()[0], "torch", torch.__version__, "numpy", numpy.__version__)'
# Without the project's addopts: shapes are checked where jaxtyping is today's.
OMP_NUM_THREADS=1 "$python" -m pytest -o addopts="--import-mode=importlib -q" -m "not slow" -p no:cacheprovider \
  tests/geometry tests/learning tests/methods tests/engines/test_local.py
