"""What every method computes stays what it was: figures of small runs, and on a like machine their bits.

The golden file is made anew by ``python tests/test_golden_bits.py``, when a result is meant to
change; what changed and why belongs into the CHANGELOG.
"""

from __future__ import annotations

import json
import platform
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import goes_on_from, heads, lines, run_local, tiny

from fedloge.digest import digest
from fedloge.methods import METHODS

GOLDEN = Path(__file__).parent / "golden/bits.json"
# What one method alone reaches: its options, and further keys.
CASES: dict[str, dict[str, Any]] = {name: {"method": name} for name in sorted(METHODS)} | {
    "fedloge-sum": {"method": "fedloge", "method_options": {"personal-realignment": "sum"}},
    "fedloge-trained": {"method": "fedloge", "method_options": {"prototypes": "none"}},
    "ldam": {
        "method": "fedavg",
        "method_options": {"loss": "ldam", "loss-options": {"drw-from": 2}},
    },
    "float16": {"method": "fedavg", "wire_dtype": "float16"},
    "group-norm": {"method": "fedavg", "norm": "group", "aggregation": "median"},
    "resnet8": {"method": "fedloge", "model": "resnet8", "norm_sharing": "affine"},
}


def machine() -> str:
    """Names what bits depend on besides the code; figures hold everywhere."""
    capability = torch.backends.cpu.get_cpu_capability()
    parts = (torch.__version__, platform.machine(), capability, _processor())
    return digest(*(part.encode() for part in parts))


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text("utf-8") if cpuinfo.exists() else ""
    return next((line for line in text.splitlines() if line.startswith("model name")), "unknown")


def outcome(folder: Path, case: dict[str, Any]) -> dict[str, Any]:
    """Figures of a run of two rounds, and a digest of all tensors from which it would go on."""
    run = run_local(tiny(folder, rounds=2, **case))
    tensors = {f"checkpoint/{k}": t for k, t in goes_on_from(run).items()}
    for client, own in heads(run).items():
        tensors |= {f"{client}/{name}": tensor for name, tensor in own.items()}
    flat = [
        part
        for name in sorted(tensors)
        for part in (name.encode(), tensors[name].contiguous().numpy().tobytes())
    ]
    figures = [
        {key: value for key, value in row.items() if isinstance(value, float)}
        for row in lines(run, "metrics")
    ]
    return {"figures": figures, "tensors": digest(*flat)}


@pytest.mark.parametrize("name", CASES)
def test_a_method_computes_what_it_did(tmp_path: Path, name: str) -> None:
    golden = json.loads(GOLDEN.read_text("utf-8"))
    found, expected = outcome(tmp_path, CASES[name]), golden["cases"][name]
    for row, known in zip(found["figures"], expected["figures"], strict=True):
        assert row.keys() == known.keys()
        # Rounding differs between machines; a handful of 500 test images may turn over.
        assert row == pytest.approx(known, rel=2e-2, abs=2e-2)
    if golden["machine"] == machine():
        assert found == expected


def main() -> None:
    """Write the golden file."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        cases = {name: outcome(Path(folder) / name, case) for name, case in CASES.items()}
    golden = {"machine": machine(), "cases": cases}
    GOLDEN.write_text(json.dumps(golden, indent=1, sort_keys=True) + "\n", "utf-8")


if __name__ == "__main__":
    main()
