"""A text-like source and a model for it: sentences of eight token ids, most of them from their class."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedloge.config import Config
from fedloge.data import AsTheyAre, DataSet, Examples
from fedloge.models import Backbone
from fedloge.rng import rng

VOCABULARY, LENGTH, CLASSES = 40, 8, 4


def sentences(config: Config) -> DataSet:
    """Token ids (sentences, 8), int64; class c prefers the tokens 10 c to 10 c + 9."""
    return DataSet(
        name="sentences",
        train=_drawn(config.seed, "train", 120),
        test=_drawn(config.seed, "test", 30),
        classes=("arts", "law", "medicine", "sport"),
        preparation=AsTheyAre(),
    )


def _drawn(seed: int, split: str, per_class: int) -> Examples:
    generator = rng(seed, f"sentences/{split}")
    labels = torch.arange(CLASSES).repeat_interleave(per_class)
    own = torch.from_numpy(generator.integers(0, 10, (len(labels), LENGTH))) + 10 * labels[:, None]
    any_token = torch.from_numpy(generator.integers(0, VOCABULARY, (len(labels), LENGTH)))
    prefers = torch.from_numpy(generator.random((len(labels), LENGTH)) < 0.6)
    return Examples(torch.where(prefers, own, any_token), labels)


class BagOfTokens(Backbone):
    """The mean of the tokens' embeddings, through one linear layer."""

    def __init__(self, input_shape: tuple[int, ...], *, width: int = 16) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.linear = nn.Linear(width, width)
        self.out_features = width

    def forward(self, tokens: Tensor) -> Tensor:
        """(sentences, tokens) of ids to (sentences, width)."""
        return self.linear(self.embedding(tokens).mean(dim=1)).relu()
