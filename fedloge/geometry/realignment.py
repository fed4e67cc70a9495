"""Realignment after training: heads rescaled by their row norms, nothing trained.

GLA-FR is from Xiao et al., "FedLoGe: Joint Local and Generic Federated Learning under
Long-tailed Data" (ICLR 2024, arXiv 2401.08977), section on global and local adaptive
feature realignment. psi is the global head, phi a client's local head; their rows
psi_c, phi_c belong to classes, and their norms follow the class sizes that each was
trained on. The realigned heads carry no bias.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def global_realign(psi: Float[Tensor, "classes features"]) -> Float[Tensor, "classes features"]:
    """GA-FR: psi'_c = psi_c / ||psi_c||, so that no class is preferred for its size.

    A zero row stays zero. Such a class has no direction, and a NaN row would spoil the
    prediction for every input.
    """
    return tau_norm(psi, 1.0)


def local_realign(
    psi: Float[Tensor, "classes features"], phi: Float[Tensor, "classes features"]
) -> Float[Tensor, "classes features"]:
    """LA-FR: phi'_c = psi_c ||phi_c||, the federation's directions at the client's own norms.

    As in the paper, psi_c enters with its own norm: ||phi'_c|| = ||psi_c|| ||phi_c||.
    """
    return psi * _row_norms(phi)


def local_realign_sum(
    psi: Float[Tensor, "classes features"], phi: Float[Tensor, "classes features"]
) -> Float[Tensor, "classes features"]:
    """LA-FR with the local head's own logits added, phi'_c + phi_c, as the authors' README has it.

    The bias of the local head, where it has one, is the caller's to keep.
    """
    return local_realign(psi, phi) + phi


def tau_norm(
    psi: Float[Tensor, "classes features"], tau: float
) -> Float[Tensor, "classes features"]:
    """psi_c / ||psi_c||^tau: tau = 0 leaves the head as it is, tau = 1 is `global_realign`.

    The tau-normalised classifier of Kang et al., "Decoupling Representation and
    Classifier for Long-Tailed Recognition" (ICLR 2020). Zero rows stay zero.

    Parameters
    ----------
    tau : 0 <= tau <= 1 in the paper.
    """
    norms = _row_norms(psi)
    return psi / torch.where(norms > 0, norms, 1.0) ** tau


def absent_mask(counts: Int[Tensor, " classes"]) -> Float[Tensor, " classes"]:
    """What to add to a client's logits so that it never predicts a class that it was not trained on.

    Parameters
    ----------
    counts : the client's TRAINING examples of each class. Test counts would leak labels.

    Returns
    -------
    0 where the client has examples, -inf where it has none. All 0 for a client without a
    single example: a mask over every class would leave no answer.
    """
    mask = torch.zeros(counts.shape, device=counts.device)
    present = counts > 0
    return mask.masked_fill(~present, -torch.inf) if present.any() else mask


def _row_norms(head: Float[Tensor, "classes features"]) -> Float[Tensor, "classes 1"]:
    # Relative to the largest entry, since the squares of a tail class's tiny row may underflow.
    largest = head.abs().amax(dim=1, keepdim=True)
    return largest * (head / torch.where(largest > 0, largest, 1.0)).norm(dim=1, keepdim=True)
