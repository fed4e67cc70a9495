"""A client's weight: what it says it holds, as far as that can be believed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import harness
import numpy as np
import pytest
import wrong_answers
from flwr.app import Message
from PIL import Image

from fedloge import messages as wire
from fedloge.config import Config, from_flat
from fedloge.engines.local import LocalGrid
from fedloge.errors import ConfigError, RunError
from fedloge.server.roster import Member
from fedloge.server.weights import Weights

ON_NODE: dict[str, Any] = {
    "dataset": "image-folder",
    "image-size": 8,
    "long-tail": "none",
    "test-split": "given",
    "partitioner": "on-node",
    "partitioner-options.classes": ["a", "b"],
    "num-clients": 3,
    "clients-per-round": 3,
    "rounds": 1,
    "local-epochs": 1,
    "device": "cpu",
    "method": "fedavg",
}


class Registered:
    def __init__(self, *images: int) -> None:
        self.images = images

    def members(self) -> dict[int, Member]:
        return {k: Member(k + 2, k, n) for k, n in enumerate(self.images)}


def weights(config: Config, *images: int) -> list[int]:
    registered = Registered(*images)
    made = Weights(config, registered)  # type: ignore[arg-type]
    return [made.of(member) for member in registered.members().values()]


def test_on_node_nobody_weighs_more_than_a_multiple_of_the_median() -> None:
    config = from_flat(ON_NODE)
    assert weights(config, 10, 12, 2**27) == [10, 12, 48]
    assert weights(config, 10, 40, 12) == [10, 40, 12]
    assert weights(config, 5, 2**28) == [5, 20]
    # Two liars of five move nothing.
    assert weights(config, 10, 11, 12, 2**26, 2**26) == [10, 11, 12, 48, 48]
    assert weights(
        from_flat(ON_NODE | {"partitioner-options.max-weight-factor": 1.5}), 4, 4, 9
    ) == [4, 4, 6]
    with pytest.raises(ConfigError, match=r"max-weight-factor: .*greater than or equal to 1"):
        weights(from_flat(ON_NODE | {"partitioner-options.max-weight-factor": 0.5}), 1, 1)


def test_where_the_server_splits_nothing_is_cut_and_privacy_weighs_alike() -> None:
    assert weights(Config(), 10, 12, 2**20) == [10, 12, 2**20]
    private = from_flat(ON_NODE | {"dp-clip": 1.0, "norm": "group"})
    assert weights(private, 10, 12, 2**20) == [1, 1, 1]


class Says(LocalGrid):
    """Client 0 registers with a count of its own making."""

    def __init__(self, config: Config, images: int) -> None:
        super().__init__(config)
        self.images = images

    def carry(self, messages: list[Message], timeout: float | None) -> Iterator[Message]:
        for reply in super().carry(messages, timeout):
            who = reply.metadata.src_node_id == 2
            if who and reply.metadata.message_type == "query.whoami":
                reply.content[wire.METRICS][wire.NUM_EXAMPLES] = self.images
            yield reply


@pytest.fixture
def on_node(tmp_path: Path) -> Callable[[str], Config]:
    draw = np.random.default_rng(0)
    for k in range(3):
        for name in "ab":
            folder = tmp_path / f"sites/client-{k}/train/{name}"
            folder.mkdir(parents=True)
            for i in range(3 + k):
                pixels = draw.integers(0, 256, (8, 8, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    paths = {"data-path": str(tmp_path / "sites"), "cache-dir": str(tmp_path / "cache")}
    return lambda name: from_flat(
        ON_NODE | paths | {"runs-dir": str(tmp_path / "runs"), "name": name}
    )


def test_a_client_that_says_it_holds_everything_does_not_own_the_average(
    on_node: Callable[[str], Config],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    runs = {}
    # Clients hold 6, 8 and 10 images: the median of what they say is 10, or 8 for the honest count.
    for name, images in (("all", 2**27), ("forty", 40)):

        def lies(content: Any, images: int = images) -> None:
            content[wire.METRICS].update({wire.NUM_EXAMPLES: images, "images": images})

        def weighs(content: Any, images: int = images) -> None:
            content[wire.METRICS].update({wire.NUM_EXAMPLES: images})

        with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, logger="fedloge"):
            wrong_answers.change_answers(patch, lies, {0})
            wrong_answers.change_answers(patch, weighs, {0}, kind="evaluate")
            config = on_node(name)
            runs[name] = harness.run_local(config, lambda c, n=images: Says(c, n))  # type: ignore[misc]
    assert not (runs["all"] / "failures.jsonl").exists()
    tensors = [harness.newest_checkpoint(run) for run in runs.values()]
    assert harness.same_tensors(*tensors)
    (said,) = [r.getMessage() for r in caplog.records if "in the average" in r.getMessage()]
    assert said.startswith(
        "client 0 says it holds 134217728 images; in the average it counts as 40"
    )
    assert "max-weight-factor" in said


def test_where_the_server_splits_a_false_count_is_refused(tmp_path: Path) -> None:
    config = harness.tiny(tmp_path, rounds=1)
    with pytest.raises(
        RunError, match=r"partition 0: it says it holds 1000 images, the split gives"
    ):
        harness.run_local(config, lambda c: Says(c, 1000))
