"""Realignment by the norms that the imbalanced law has for the class sizes, not by those that rows have."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedloge.geometry.law_fit import fit_law, law_divisors

_FEWEST = 3


def global_realign_by_law(
    psi: Float[Tensor, "classes features"], counts: Int[Tensor, " classes"]
) -> Float[Tensor, "classes features"]:
    """psi_c over the law's norm for its size; over its own norm where the law gives the class up.

    Zero rows stay zero. With fewer than three classes to fit to it is GA-FR.
    """
    norms = law_norms(psi, counts)
    return psi / torch.where(norms > 0, norms, 1.0)[:, None]


def at_law_norms(
    phi: Float[Tensor, "classes features"], counts: Int[Tensor, " classes"]
) -> Float[Tensor, "classes features"]:
    """phi_c at the law's norm for its size on this client; as it is where the law gives the class up."""
    own = phi.norm(dim=1)
    return phi * (law_norms(phi, counts) / torch.where(own > 0, own, 1.0))[:, None]


def law_norms(
    head: Float[Tensor, "classes features"], counts: Int[Tensor, " classes"]
) -> Float[Tensor, " classes"]:
    """The norms of the law fitted to a head's; a row's own where the law has 0, or nothing to be fitted to."""
    norms = head.norm(dim=1)
    if int((counts > 0).sum()) < _FEWEST:
        return norms
    measured = norms.double().cpu().numpy()
    fit = fit_law(counts.cpu().numpy(), measured)
    return torch.from_numpy(law_divisors(fit, measured)).to(norms)
