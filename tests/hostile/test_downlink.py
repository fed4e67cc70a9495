"""What a server may send: a model that cannot be one is refused by the client, as an answer is by the server."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import harness
import pytest
import torch
from flwr.app import Array, ArrayRecord
from one_message import ask, reason, work
from torch import Tensor

from fedloge import messages as wire
from fedloge.errors import UpdateError
from fedloge.federation import open_federation
from fedloge.messages.records import check_downlink
from fedloge.methods import METHODS
from fedloge.methods.method import Part

Change = Callable[[dict[str, Tensor]], None]


def _set(value: float, everywhere: bool) -> Change:
    def change(tensors: dict[str, Tensor]) -> None:
        name = next(name for name, t in tensors.items() if t.ndim > 1)
        tensors[name] = tensors[name].clone()
        tensors[name].view(-1)[: None if everywhere else 1] = value

    return change


WRONG: dict[str, tuple[Change, str]] = {
    "a tensor left out": (lambda t: t.__delitem__(next(iter(t))), "is missing"),
    "nothing at all": (lambda t: t.clear(), "is missing"),
    "one tensor more": (lambda t: t.update({"extra": torch.ones(2)}), "is not part of the model"),
    "another shape": (lambda t: t.update({next(iter(t)): torch.ones(2, 2)}), "has shape (2, 2)"),
    "another dtype": (
        lambda t: t.update({next(iter(t)): next(iter(t.values())).double()}),
        "has dtype torch.float64",
    ),
    "one NaN": (_set(math.nan, False), "not finite"),
    "one infinity": (_set(math.inf, False), "not finite"),
    "a value of 2^15": (_set(2.0**15, False), "a value of 32768 or more"),
    "a layer of zeros": (_set(0.0, True), "holds one value everywhere"),
    "a layer of one value": (_set(0.01, True), "holds one value everywhere"),
}


@pytest.mark.parametrize("kind", ["train", "evaluate"])
@pytest.mark.parametrize("name", WRONG)
def test_a_model_that_cannot_be_is_refused_and_nothing_is_trained(
    kind: str, name: str, tmp_path: Path
) -> None:
    config = harness.tiny(tmp_path, method="fedper")
    tensors = dict(open_federation(config).initial[Part.SHARED])
    change, words = WRONG[name]
    change(tensors)
    content = work(config)
    content[wire.ARRAYS] = wire.encode(tensors)
    said = reason(ask(config, kind, content))
    assert "the server sent a model that cannot be" in said and words in said
    assert not (tmp_path / "run").exists()


def test_arrays_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    config = harness.tiny(tmp_path)
    content = work(config)
    content[wire.ARRAYS] = ArrayRecord({"w": Array("float32", (2,), "numpy.ndarray", b"no")})
    assert "tensors cannot be read" in reason(ask(config, "train", content))


@pytest.mark.parametrize("method", METHODS)
def test_what_a_method_begins_with_is_taken(method: str, tmp_path: Path) -> None:
    """Layers that begin with one value, such as scales or counts, may have one."""
    shared = open_federation(harness.tiny(tmp_path, method=method)).initial[Part.SHARED]
    check_downlink(dict(shared), shared)


def test_a_layer_that_began_with_one_value_may_have_one() -> None:
    template = {"weight": torch.tensor([1.0, 2.0]), "bias": torch.zeros(3)}
    check_downlink({"weight": torch.tensor([1.0, 3.0]), "bias": torch.ones(3)}, template)
    with pytest.raises(UpdateError, match="'weight' holds one value everywhere"):
        check_downlink({"weight": torch.ones(2), "bias": torch.ones(3)}, template)
