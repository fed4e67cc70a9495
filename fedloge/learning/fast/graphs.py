"""Training steps recorded once per batch shape and replayed: CUDA graphs, checked before use.

A step of a small network on a GPU consists of some two hundred kernels, which take less time to
run than to launch. Recorded as a graph they are launched as one. Each batch shape has a graph of
its own, so the smaller last batch of an epoch is neither dropped nor padded.

Every graph is checked. The first batch of a shape is trained the plain way, and the graph is
replayed on the same batch from the same state. If the two updates differ the graph is thrown away,
with a warning in the log, and training goes on without it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedloge.learning.loop import Step, TrainStep
from fedloge.learning.lr_schedule import lr_changes

log = logging.getLogger(__name__)

Recorder = Callable[[Callable[[], Tensor]], tuple[Callable[[], object], Tensor]]

TOLERANCE = 0.01
"""Largest allowed distance of the two updates, relative to their length. Rounding in bfloat16 and sums
in any order stay far below; a stale or missing input does not."""


@dataclass(frozen=True)
class _Recorded:
    inputs: Tensor
    labels: Tensor
    replay: Callable[[], object]
    terms: Tensor


class StepGraphs:
    """A training step that is replayed for every batch shape that has been recorded.

    Parameters
    ----------
    step : a whole training step on inputs and labels, which returns its loss terms. It may read
        nothing but its batch and `state`, which it changes in place.
    state : the tensors that a step reads and changes, the same objects every time.
    record : takes a function without arguments; returns a function that replays it, and the tensor
        that holds its result after a replay. Raises `RuntimeError` if it cannot be recorded.
    """

    def __init__(self, step: TrainStep, state: Sequence[Tensor], record: Recorder) -> None:
        self._step = step
        self._state = list(state)
        self._record = record
        self._recorded: dict[tuple[int, ...], _Recorded] = {}
        self.refused = ""
        """Why steps are not replayed; empty while they are."""

    def __call__(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """One step; returns the loss terms, which the next step overwrites."""
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
        # Clones keep the strides, so images in channels_last stay so.
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
    """Record a step as a CUDA graph, after a few runs in which libraries choose their kernels."""
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
    """Distance of two updates from the same state, relative to the first; NaN if either has one."""
    apart = sum(float((a - b).double().square().sum()) for a, b in zip(one, other, strict=True))
    moved = sum(float((a - b).double().square().sum()) for a, b in zip(one, before, strict=True))
    if apart == 0:
        return 0.0
    return float((apart / moved) ** 0.5) if moved else float("inf")


class StepRecorder:
    """The recorded steps of one network, one for each purpose; they work on the memory of its tensors."""

    def __init__(self, record: Recorder) -> None:
        self._record = record
        self._kept: dict[str, tuple[Step, TrainStep]] = {}
        self._refused = False

    def recorded(self, step: Step, purpose: str, *, uniform: bool) -> tuple[Step, TrainStep]:
        """The step kept for this purpose, its optimiser reset; `step` itself if it cannot be recorded."""
        if not uniform:
            if not self._refused:
                log.warning("fast: this method's step differs from client to client; not recorded")
            self._refused = True
            return step, step
        if purpose not in self._kept:
            if lr_changes(step.client.config):
                step.optimiser.keep_lr_in_memory()
            own = step.optimiser.reset()
            state = [*step.net.parameters(), *step.net.buffers(), *own]
            self._kept[purpose] = step, StepGraphs(step, state, self._record)
        kept = self._kept[purpose][0].optimiser
        kept.take_lr(step.optimiser.lr)
        kept.reset()
        return self._kept[purpose]
