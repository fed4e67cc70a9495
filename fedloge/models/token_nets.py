"""Small networks for token ids: a causal transformer, and an embedding with an MLP as its baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from fedloge.errors import ConfigError
from fedloge.models.backbone import Backbone
from fedloge.options import checked_options, keyword_options

AtLeastOne = Annotated[int, Field(ge=1)]


class Transformer(Backbone):
    """A causal transformer; its features are those of the last token, which all the others have fed.

    Pre-norm blocks with GELU and a learned position, as GPT-2 has them (Radford et al. 2019), without
    dropout.

    Parameters
    ----------
    width : d, a multiple of `heads`.
    vocabulary : token ids are below it.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        *,
        width: AtLeastOne = 64,
        depth: AtLeastOne = 2,
        heads: AtLeastOne = 4,
        vocabulary: AtLeastOne = 1024,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(
                f"model-options of 'transformer': width {width} is no multiple of heads {heads}"
            )
        (length,) = input_shape
        self.embedding = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(0.02 * torch.randn(length, width))
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width,
                heads,
                4 * width,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        mask = torch.triu(torch.full((length, length), -torch.inf), diagonal=1)
        self.register_buffer("mask", mask, persistent=False)
        self.out_features = width

    def forward(self, tokens: Int[Tensor, "examples length"]) -> Float[Tensor, "examples width"]:
        """Token ids to features."""
        h = self.embedding(tokens.long()) + self.position
        for block in self.blocks:
            h = block(h, src_mask=self.mask, is_causal=True)
        out: Tensor = self.norm(h[:, -1])
        return out


class EmbeddingMlp(Backbone):
    """The embeddings of all tokens side by side, through one hidden layer (Bengio et al. 2003).

    Parameters
    ----------
    width : d. `embedding`: numbers for each token.
    vocabulary : token ids are below it.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        *,
        width: AtLeastOne = 64,
        embedding: AtLeastOne = 32,
        hidden: AtLeastOne = 256,
        vocabulary: AtLeastOne = 1024,
    ) -> None:
        super().__init__()
        (length,) = input_shape
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.layers = nn.Sequential(
            nn.Linear(length * embedding, hidden), nn.GELU(), nn.Linear(hidden, width)
        )
        self.out_features = width

    def forward(self, tokens: Int[Tensor, "examples length"]) -> Float[Tensor, "examples width"]:
        """Token ids to features."""
        out: Tensor = self.layers(self.embedding(tokens.long()).flatten(1))
        return out


TOKEN_NETS: Mapping[str, type[Backbone]] = {
    "embedding-mlp": EmbeddingMlp,
    "transformer": Transformer,
}
"""Those that a config may name."""


def token_net(name: str, input_shape: tuple[int, ...], options: Mapping[str, Any]) -> Backbone:
    """A network of `TOKEN_NETS`.

    Raises
    ------
    ConfigError
        The inputs are no rows of token ids, or an option is unknown or out of its range.
    """
    if len(input_shape) != 1:
        raise ConfigError(
            f"model {name!r} takes rows of token ids, but inputs have the shape {input_shape}; "
            "take dataset sotu, or another model"
        )
    kind = keyword_options(TOKEN_NETS[name])
    checked = checked_options(kind, options, f"model-options of {name!r}")
    made: Backbone = TOKEN_NETS[name](input_shape, **dict(checked))
    return made
