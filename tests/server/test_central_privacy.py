from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fedloge.config import Config
from fedloge.engines import local
from fedloge.errors import ConfigError


def config(tmp_path: Path, name: str, **changes) -> Config:
    base = Config(
        num_clients=6,
        clients_per_round=3,
        rounds=2,
        local_epochs=1,
        partitioner_options={"alpha": 5.0},
        norm="group",
    )
    return base.replace(runs_dir=str(tmp_path), name=name, evaluate_every=2, **changes)


def checkpoint(folder: Path, round: int) -> dict[str, torch.Tensor]:
    return load_file(folder / f"checkpoint/round-{round:06d}.safetensors")


def test_without_noise_the_update_is_clipped_to_the_norm(tmp_path: Path) -> None:
    local.run(config(tmp_path, "tight", dp_clip=0.01, dp_noise=0.0))
    before, after = checkpoint(tmp_path / "tight", 1), checkpoint(tmp_path / "tight", 2)
    moved = math.sqrt(sum(float((after[k] - before[k]).square().sum()) for k in after))
    assert 0 < moved <= 0.01 * (1 + 1e-4)


def test_noise_is_drawn_anew_and_epsilon_is_recorded(tmp_path: Path) -> None:
    pytest.importorskip("dp_accounting")
    for name in "ab":
        local.run(config(tmp_path, name, dp_clip=0.01, dp_noise=1.0))
    a, b = checkpoint(tmp_path / "a", 2), checkpoint(tmp_path / "b", 2)
    assert not all(a[key].equal(b[key]) for key in a)
    rows = [json.loads(line) for line in (tmp_path / "a/metrics.jsonl").read_text().splitlines()]
    assert rows[1]["privacy/epsilon"] >= rows[0]["privacy/epsilon"] > 0


def test_the_noise_has_the_size_the_mechanism_says(tmp_path: Path) -> None:
    # Clipped to (almost) nothing, what is left of the step is the noise: z * clip / clients.
    pytest.importorskip("dp_accounting")
    clip, noise = 1e-3, 300.0
    local.run(config(tmp_path, "loud", dp_clip=clip, dp_noise=noise))
    before, after = checkpoint(tmp_path / "loud", 1), checkpoint(tmp_path / "loud", 2)
    steps = torch.cat([(after[k] - before[k]).flatten() for k in after])
    assert float(steps.std()) == pytest.approx(noise * clip / 3, rel=0.03)


def test_epsilon_of_one_gaussian_release() -> None:
    pytest.importorskip("dp_accounting")
    from fedloge.server.central_privacy import Epsilon

    class Always:
        def sample(self, round: int) -> list[int]:
            return [0]

    one = Epsilon(Config(dp_noise=1.0, dp_clip=1.0)).after(Always(), 1)
    # The exact epsilon of one Gaussian release, sigma 1, delta 1e-5, is 4.38 (Balle and Wang 2018);
    # Renyi accounting is an upper bound on it.
    assert 4.38 <= one <= 5.0
    assert Epsilon(Config(dp_noise=1.0, dp_clip=1.0)).after(Always(), 4) > one


def test_what_the_noise_does_not_cover_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="running variance"):
        local.run(config(tmp_path, "bn", dp_clip=0.1).replace(norm="batch"))
    with pytest.raises(ConfigError, match="aggregation=mean"):
        config(tmp_path, "x", dp_clip=0.1, aggregation="median")
