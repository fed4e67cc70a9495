"""Training steps recorded once a batch shape and replayed: CUDA graphs, checked before they are trusted.

A step of a small network on a GPU is some two hundred kernels that take less time to run than
to launch. Recorded as a graph they are launched as one. Each shape of batch has a graph of its
own, so a ragged last batch is neither dropped nor padded.

Nothing here is taken on trust: the first batch of a shape is trained the plain way, the graph is
replayed on the same batch from the same state, and if the two updates differ the graph is thrown
away, with a word in the log, and training goes on without.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedloge.learning.loop import Step, TrainStep

log = logging.getLogger(__name__)

Recorder = Callable[[Callable[[], Tensor]], tuple[Callable[[], object], Tensor]]

TOLERANCE = 0.01
"""Largest difference of two updates that are the same but for rounding, over their length: bfloat16
and kernels that add up in any order stay far below, a stale or a missing input does not."""


@dataclass(frozen=True)
class _Recorded:
    inputs: Tensor
    labels: Tensor
    replay: Callable[[], object]
    terms: Tensor


class StepGraphs:
    """Calls of `step`, replayed where its batch shape has been recorded.

    Parameters
    ----------
    step : a whole training step on inputs and labels, which returns its loss terms. It may read
        nothing but its batch and `state`, which it changes in place.
    state : the tensors that a step reads and changes, the same objects every time.
    record : makes of a function without arguments one that replays it, and the tensor that holds
        its result after a replay; raises `RuntimeError` where that cannot be.
    """

    def __init__(self, step: TrainStep, state: Sequence[Tensor], record: Recorder) -> None:
        self._step = step
        self._state = list(state)
        self._record = record
        self._recorded: dict[tuple[int, ...], _Recorded] = {}
        self.refused = ""
        """Why nothing is replayed; empty while all is well."""

    def __call__(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """One step; the loss terms, valid until the next."""
        if self.refused:
            return self._step(inputs, labels)
        recorded = self._recorded.get(tuple(inputs.shape))
        if recorded is None:
            return self._first(inputs, labels)
        recorded.inputs.copy_(inputs)
        recorded.labels.copy_(labels)
        recorded.replay()
        return recorded.terms

    def _first(self, inputs: Tensor, labels: Tensor) -> Tensor:
        before = self._copies()
        terms = self._step(inputs, labels).clone()
        after = self._copies()
        try:
            recorded = self._recording(inputs, labels)
            self._restore(before)
            recorded.replay()
            difference = _difference(before, after, self._state)
            if not difference <= TOLERANCE:
                raise RuntimeError(f"a replayed step differs from a plain one by {difference:.2g}")
            self._recorded[tuple(inputs.shape)] = recorded
        except RuntimeError as exc:
            self.refused = str(exc).splitlines()[0]
            self._recorded.clear()
            log.warning("fast: %s; training goes on without", self.refused)
        self._restore(after)
        return terms

    def _recording(self, inputs: Tensor, labels: Tensor) -> _Recorded:
        # Clones keep the strides: channels_last images stay so.
        own_inputs, own_labels = inputs.clone(), labels.clone()
        replay, terms = self._record(lambda: self._step(own_inputs, own_labels))
        return _Recorded(own_inputs, own_labels, replay, terms)

    def _copies(self) -> list[Tensor]:
        return [tensor.detach().clone() for tensor in self._state]

    @torch.no_grad()
    def _restore(self, copies: list[Tensor]) -> None:
        for tensor, copy in zip(self._state, copies, strict=True):
            tensor.copy_(copy)


def cuda_graph(step: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
    """Record a step as a CUDA graph, after some runs that let its libraries choose their kernels."""
    ours, side = torch.cuda.current_stream(), torch.cuda.Stream()
    side.wait_stream(ours)
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    ours.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        terms = step()
    return graph.replay, terms


@torch.no_grad()
def _difference(before: list[Tensor], one: list[Tensor], other: Sequence[Tensor]) -> float:
    """Of two updates from the same state, relative to the first; NaN if either holds one."""
    apart = sum(float((a - b).double().square().sum()) for a, b in zip(one, other, strict=True))
    moved = sum(float((a - b).double().square().sum()) for a, b in zip(one, before, strict=True))
    if apart == 0:
        return 0.0
    return float((apart / moved) ** 0.5) if moved else float("inf")


class StepRecorder:
    """The recorded steps of one network, one for each purpose: its parameters' memory is what they work on."""

    def __init__(self, record: Recorder) -> None:
        self._record = record
        self._kept: dict[str, tuple[Step, TrainStep]] = {}
        self._refused = False

    def recorded(self, step: Step, purpose: str, *, uniform: bool) -> tuple[Step, TrainStep]:
        """The step kept for this purpose, its optimiser at rest; the plain one where it cannot be recorded."""
        if not uniform:
            if not self._refused:
                log.warning("fast: this method's step differs from client to client; not recorded")
            self._refused = True
            return step, step
        if purpose not in self._kept:
            velocities = step.optimiser.rest()
            state = [*step.net.parameters(), *step.net.buffers(), *velocities]
            self._kept[purpose] = step, StepGraphs(step, state, self._record)
        self._kept[purpose][0].optimiser.rest()
        return self._kept[purpose]
