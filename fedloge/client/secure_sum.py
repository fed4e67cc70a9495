"""A client's part in a secure sum: it masks its vector, and later helps to take the masks off.

It answers only what gives away no more than a sum over enough clients (`Cohort`, `MaskMemory`): the
server is not trusted with that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from flwr.app import ArrayRecord, RecordDict
from torch import Tensor

from fedloge.client.client import Trained
from fedloge.client.mask_memory import MaskMemory, Remembered
from fedloge.client.masking_keys import MaskingKeys
from fedloge.config import Config
from fedloge.errors import UpdateError
from fedloge.messages import ARRAYS, GIVEN, Plan, Stamp, record_of, reply_content
from fedloge.messages.cohort import (
    FEWEST,
    Cohort,
    Kind,
    MaskedAnswer,
    MaskGraph,
    Unmasked,
    Unmasking,
    context_of,
    subject_of,
)
from fedloge.messages.masked_vector import VectorLayout, model_before
from fedloge.messages.masks import MaskStream, Pairs, commitment, new_seed, split


class SecureSum:
    """One client's part in the secure sums of one round.

    Parameters
    ----------
    images : this client's training images; it weighs no more than that.
    folder : where this client keeps its state of the run.
    fewest : survivors that it asks for; never less than three.
    """

    def __init__(
        self,
        config: Config,
        me: int,
        images: int,
        keys: MaskingKeys,
        folder: Path,
        fewest: int = FEWEST,
    ) -> None:
        self._config, self._me, self._images, self._keys = config, me, images, keys
        self._memory = MaskMemory(folder)
        self._fewest = max(FEWEST, fewest)

    def answer(self, kind: Kind, stamp: Stamp, asked: RecordDict, trained: Trained) -> RecordDict:
        """The answer to a message: what is summed under masks, the rest of the figures beside it.

        Raises as `mask`.
        """
        hidden = {k: value for k, value in trained.metrics.items() if k.startswith("train/")}
        told = {k: value for k, value in trained.metrics.items() if k not in hidden}
        content = reply_content(stamp, told)
        self.mask(kind, stamp, asked, trained, hidden).put_into(content)
        return content

    def mask(
        self,
        kind: Kind,
        stamp: Stamp,
        asked: RecordDict,
        trained: Trained,
        figures: Mapping[str, float],
    ) -> MaskedAnswer:
        """This client's vector, masked for the cohort that the message names.

        Parameters
        ----------
        kind : of the message.
        asked : the message's content.
        trained : holds the tensors and sums that are masked.
        figures : what is masked with them.

        Raises
        ------
        UpdateError
            The cohort is too small, holds a client that this site does not know, or gives this one
            another weight; a value is out of its bounds; or the message was answered before.
        """
        shared = {name: tensor.detach().cpu() for name, tensor in trained.shared.items()}
        sums = {name: tensor.detach().cpu() for name, tensor in trained.sums.items()}
        cohort = Cohort.from_content(asked)
        self._check_cohort(cohort, Plan.from_content(asked))
        sent = [record_of(asked, name, ArrayRecord) for name in (ARRAYS, GIVEN)]
        subject = subject_of(kind, stamp, *sent)
        context = context_of(subject, stamp, cohort)
        layout = VectorLayout(
            shared=shared,
            sums=sums,
            figures=sorted(figures),
            total_weight=sum(cohort.weights),
            before=model_before(self._config, kind, sent[0]),
        )
        # Its bounds are checked here: behind the masks nobody else can.
        words = layout.pack(shared, cohort.weight_of(self._me), sums, figures)
        graph = MaskGraph.of(self._config, cohort.clients, stamp.round)
        neighbours, threshold = graph.neighbours(self._me), graph.threshold(self._me)
        self._memory.mask(context, Remembered(subject, cohort.clients, neighbours, threshold))
        seed, pairs = new_seed(), self._pairs(context)
        MaskStream(seed).into(words, 1)
        for other in neighbours:
            MaskStream(pairs.mask_seed(other)).into(words, 1 if self._me < other else -1)
        shares = split(seed, threshold, graph.holders(self._me))
        boxes = {other: pairs.seal(other, share) for other, share in shares.items()}
        return MaskedAnswer(words, tuple(layout.figures), boxes, commitment(seed, context))

    def unmask(self, asked: Unmasking) -> Unmasked:
        """Shares of the survivors' self-masks, and the seeds of this client's masks with the dropped.

        Raises
        ------
        UpdateError
            This client has masked nothing in this context; survivors and dropped are not the
            cohort, each once; there are too few survivors; the sum was opened over others before; or
            a share was not sealed for it.
        """
        cohort = self._memory.masked(asked.context)
        survivors = self._checked_survivors(cohort, asked)
        holders = {*cohort.neighbours, self._me}
        if len(survivors & holders) < cohort.threshold:
            raise UpdateError(
                f"unmasking: {len(survivors & holders)} of the {len(holders)} clients that mask with client "
                f"{self._me} are left, itself included; expected {cohort.threshold} or more"
            )
        pairs = self._pairs(asked.context)
        wanted = {of: box for of, box in asked.boxes.items() if of in survivors and of in holders}
        shares = {of: pairs.open(of, box) for of, box in sorted(wanted.items())}
        self._memory.open(asked.context, sorted(survivors))
        dropped = [k for k in cohort.neighbours if k not in survivors]
        return Unmasked(shares, {k: pairs.mask_seed(k) for k in dropped})

    def _checked_survivors(self, cohort: Remembered, asked: Unmasking) -> set[int]:
        survivors, dropped = set(asked.survivors), set(asked.dropped)
        if both := survivors & dropped:
            raise UpdateError(
                f"unmasking: client {min(both)} is said both to have answered and to have dropped; both its "
                "seeds would show its update"
            )
        named = len(asked.survivors) + len(asked.dropped)
        if survivors | dropped != set(cohort.clients) or named != len(cohort.clients):
            raise UpdateError("unmasking: survivors and dropped are not the clients of the cohort")
        if self._me not in survivors:
            raise UpdateError(
                f"unmasking: client {self._me} has answered, and is said to have dropped"
            )
        if len(survivors) < self._fewest:
            raise UpdateError(
                f"unmasking: the sum would be over {len(survivors)} clients, expected {self._fewest} or more"
            )
        return survivors

    def _check_cohort(self, cohort: Cohort, plan: Plan) -> None:
        if len(cohort.clients) < self._fewest:
            raise UpdateError(
                f"secure aggregation: a cohort of {len(cohort.clients)} clients, expected {self._fewest} or more"
            )
        weight = cohort.weight_of(self._me)
        if plan != Plan(weight, sum(cohort.weights)) or weight > self._images:
            raise UpdateError(
                f"secure aggregation: the cohort gives client {self._me} the weight {weight}, its plan "
                f"{plan.weight}, and it holds {self._images} images"
            )
        if unknown := set(cohort.clients) - self._keys.public.keys():
            raise UpdateError(
                f"secure aggregation: client {min(unknown)} is not in this site's list of peers"
            )

    def _pairs(self, context: str) -> Pairs:
        return Pairs(self._me, self._keys.private, self._keys.public, context)


def check_length(before: Mapping[str, Tensor], after: Mapping[str, Tensor], most: float) -> None:
    """`UpdateError` if a client's own update is longer than `most`, in the L2 norm over all shared tensors.

    Behind masks nobody else can find that out, and one such update may spoil the mean.
    """
    moved = (t.detach().double().cpu() - before[name].double() for name, t in after.items())
    length = math.sqrt(math.fsum(float(part.square().sum()) for part in moved))
    if not length <= most:
        raise UpdateError(
            f"this client's update has norm {length:.4g}, secure-update-norm allows {most:g}; it is not sent"
        )
