"""Honest classes of more images than a value of a model may have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import harness
import pytest
import torch

from fedloge import messages as wire
from fedloge.engines import own_grid


def _as_many_images(content: Any, factor: float) -> None:
    sums = wire.received_tensors(content, wire.SUMS)
    content[wire.SUMS] = wire.encode({name: t * factor for name, t in sums.items()})


@pytest.mark.parametrize(
    ("method", "name"), [("rucr", "unified.counts"), ("fedyoyo", "federation.counts")]
)
def test_classes_of_many_thousand_images_go_on_and_resume(
    method: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, factor = own_grid.client_app, 2.0**12

    def app(message: Any, context: Any) -> Any:
        reply = honest(message, context)
        if wire.SUMS in reply.content:
            _as_many_images(reply.content, factor)
        return reply

    plain = harness.run_local(harness.tiny(tmp_path, "plain", method=method))
    monkeypatch.setattr(own_grid, "client_app", app)
    whole = harness.run_local(harness.tiny(tmp_path, "whole", method=method))
    part = harness.run_local(harness.tiny(tmp_path, "part", method=method, rounds=2))
    harness.resume_local(part, rounds=3)
    assert harness.differences(whole, part) == []
    assert not (whole / "failures.jsonl").exists()
    before, after = harness.newest_checkpoint(plain), harness.newest_checkpoint(whole)
    unit = after.pop(f"server.{name}.unit")
    assert unit > 1
    counts = after.pop(f"shared.{name}") * unit
    assert counts.max() > 2**15
    # The same shares of classes make the same model, to the bit.
    assert torch.equal(counts / factor, before.pop(f"shared.{name}"))
    assert harness.same_tensors(before, after)
