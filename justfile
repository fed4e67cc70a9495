# What a contributor needs; CONTRIBUTING.md has the same without just.

set positional-arguments

export FLWR_TELEMETRY_ENABLED := "0"
export RAY_USAGE_STATS_ENABLED := "0"

# List the commands.
_default:
    @just --list --unsorted

# Everything a change must pass; `just test -m "not slow"` is the quick part.
test *arguments:
    uv run pytest "$@"

# Style, types, import arrows.
check:
    uv run ruff check .
    uv run ruff format --check .
    uv run mypy
    uv run lint-imports

# Build the wheel, install it in a clean environment, use it in a stranger's folder.
wheel:
    bash tests/packaging/wheel.sh

# Tests of the science on the oldest torch and packages that are promised.
oldest:
    bash tests/packaging/oldest.sh

# What an engine costs beside its arithmetic; `just bench --only training`.
bench *arguments:
    uv run python experiments/benchmarks "$@"
