"""What of a client's sums may leave its site: nothing of a class with fewer examples than the policy says."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Int
from torch import Tensor

from fedloge.client.site_policy import SitePolicy
from fedloge.errors import PolicyError
from fedloge.learning.class_told import ClassTold


def allowed_sums(
    sums: Mapping[str, Tensor],
    told: ClassTold,
    counts: Int[Tensor, " classes"],
    policy: SitePolicy | None,
    who: str,
) -> dict[str, Tensor]:
    """The sums with zeros for each class of which there are too few examples, as if there were none.

    Parameters
    ----------
    told : what the sums tell of single classes.
    counts : examples of each class that are in the sums.
    policy : the site's; None: all may leave.
    who : the method or probe, for the message.

    Raises
    ------
    PolicyError
        Such sums may not leave, or classes cannot be taken out of them.
    """
    if policy is None or not sums:
        return dict(sums)
    policy.check_told(told, who)
    if told.leaves_out or not (told.counts or told.sums):
        return dict(sums)
    small = small_classes(counts, policy)
    allowed = {}
    for name, tensor in sums.items():
        if not tensor.ndim or len(tensor) != len(counts):
            raise PolicyError(
                "min-images-per-class",
                f"{who} sends {name!r} of shape {tuple(tensor.shape)}, whose rows are not the classes",
            )
        allowed[name] = tensor.clone()
        allowed[name][small.to(tensor.device)] = 0
    return allowed


def small_classes(counts: Int[Tensor, " classes"], policy: SitePolicy) -> Tensor:
    """Which classes have examples, but too few to be told of."""
    return (counts > 0) & (counts < policy.min_images_per_class)


def allowed_counts(counts: list[int], policy: SitePolicy | None) -> list[int]:
    """Examples of each class as they may be told: 0 for a class with too few."""
    if policy is None:
        return counts
    told = torch.tensor(counts)
    return told.masked_fill(small_classes(told, policy), 0).tolist()
