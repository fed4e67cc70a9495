"""What a script prints on other processors and thread counts than those of this process."""

from __future__ import annotations

import os
import subprocess
import sys

# Kernels without AVX, then with AVX2 and FMA; numpy names its own groups by version.
MACHINES = {
    "sse-1-thread": {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_CORETYPE": "Prescott",
        "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4",
    },
    "avx2-2-threads": {"OMP_NUM_THREADS": "2", "OPENBLAS_CORETYPE": "Haswell"},
}


def words_printed(script: str, machine: str) -> list[str]:
    """The words that a Python script prints in a process of its own on one of `MACHINES`."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("OPENBLAS", "OMP", "NPY"))}
    run = subprocess.run(
        [sys.executable, "-c", script],
        env=env | MACHINES[machine],
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stdout.split()
