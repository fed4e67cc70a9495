#!/usr/bin/env bash
# List what is installed in an environment as a CycloneDX SBOM, and check that nothing is missing from it.
#   sbom.sh PYTHON FILE
set -euo pipefail
cd "$(dirname "$0")/../.."
mkdir -p "$(dirname "$2")"
uv run --no-sync cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --short-PURLs \
  --output-file "$2" "$1"
uv run --no-sync python - "$2" <(uv pip list --quiet --python "$1" --format json) <<'END'
import json, sys
from pathlib import Path

bom, installed = (json.loads(Path(path).read_text()) for path in sys.argv[1:])
known = lambda name: name.lower().replace("_", "-").replace(".", "-")
listed = {(known(part["name"]), part["version"]) for part in bom["components"]}
missing = {(known(part["name"]), part["version"]) for part in installed} - listed
missing = {part for part in missing if part[0] != known(bom["metadata"]["component"]["name"])}
sys.exit(f"not in the SBOM: {sorted(missing)}" if missing or len(listed) < 50 else 0)
END
echo "SBOM: $2"
