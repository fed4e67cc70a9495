from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from fedloge.data import AsTheyAre, DataSet, Examples, preparation_of
from fedloge.errors import DataError


def test_take() -> None:
    images = Examples(
        torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1), torch.tensor([0, 1, 0, 1])
    )
    taken = images.take(np.array([3, 0, 3]))
    assert len(taken) == 3
    assert taken.inputs.flatten().tolist() == [3, 0, 3]
    assert taken.labels.tolist() == [1, 0, 1]
    taken.inputs.zero_()
    assert images.inputs.flatten().tolist() == [0, 1, 2, 3]


def test_take_nothing() -> None:
    examples = Examples(torch.zeros(3, 5), torch.tensor([0, 1, 1]))
    for nothing in (torch.empty(0), np.empty(0, dtype=np.int64)):
        taken = examples.take(nothing)
        assert len(taken) == 0 and taken.inputs.shape == (0, 5)


def test_soft_labels_have_a_class_too() -> None:
    soft = torch.tensor([[0.2, 0.5, 0.3], [0.9, 0.1, 0.0]])
    examples = Examples(torch.zeros(2, 4), soft)
    assert examples.classes.tolist() == [1, 0]
    assert len(examples) == 2
    taken = examples.take(np.array([1, 1]))
    assert torch.equal(taken.labels, soft[[1, 1]]) and taken.classes.tolist() == [0, 0]
    hard = Examples(torch.zeros(2, 4), torch.tensor([1, 0]))
    assert hard.classes is hard.labels


def test_inputs_may_be_of_any_kind() -> None:
    tokens = Examples(torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([0, 1]))
    data = DataSet("words", tokens, tokens, ("a", "b"), AsTheyAre())
    assert data.num_classes == 2 and data.input_shape == (3,)
    blank = data.blank_inputs(2)
    assert blank.dtype == torch.int64 and blank.tolist() == [[0, 0, 0]] * 2


@pytest.mark.parametrize("kind", [torch.float16, torch.float32, torch.float64])
def test_features_come_as_float32(kind: torch.dtype) -> None:
    features = torch.tensor([[0.5, -2.0]], dtype=kind)
    generator = np.random.default_rng(0)
    before = generator.bit_generator.state
    prepared = AsTheyAre().prepare(AsTheyAre().augment(features, generator))
    assert prepared.dtype == torch.float32 and prepared.tolist() == [[0.5, -2.0]]
    assert generator.bit_generator.state == before


def test_a_preparation_is_found_by_its_description() -> None:
    assert preparation_of(json.loads(json.dumps(AsTheyAre().described()))) == AsTheyAre()


@pytest.mark.parametrize("described", [{"kind": "words"}, {}])
def test_a_preparation_of_another_kind_is_refused(described: dict[str, object]) -> None:
    with pytest.raises(DataError, match="expected image, fitted-image or as"):
        preparation_of(described)
