from __future__ import annotations

import subprocess
import sys

import pytest

from fedloge.federation.memory import keep_freed_memory

PROGRAM = """
import resource, torch
from fedloge.federation.memory import keep_freed_memory
keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(10 * 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


def page_faults() -> int:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    return int(result.stdout)


@pytest.mark.skipif(keep_freed_memory() < 64, reason="the C library is no glibc, or an old one")
def test_freed_memory_is_used_again_without_asking_the_system() -> None:
    assert page_faults() < 100
