"""One test suite for every method, built-in or a user's own.

`check_method` makes all checks at once. With `method_checks` pytest shows them one by one::

    @pytest.mark.parametrize("check", method_checks(), ids=str)
    def test_my_method(check):
        check("path/to/file.py:MyMethod")
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from fedloge.config import Config, from_flat
from fedloge.engines import local
from fedloge.errors import ConfigError, PluginError, UpdateError
from fedloge.federation import Federation
from fedloge.learning.loop import sgd
from fedloge.learning.private_steps import ExampleGradients
from fedloge.messages import check_update
from fedloge.methods import METHODS
from fedloge.methods.method import Aggregate, ClientData, Method, Network, Part, Predictor, Update
from fedloge.models import NORM_LAYERS
from fedloge.rng import torch_seeded
from fedloge.run_files import RunFiles
from fedloge.testing.random_states import process_wide_states

Spec = str | type[Method[Any]]

# Four clients with the embedded digits, one of them with few examples: all checks take seconds.
_SETTING: Mapping[str, Any] = {
    "device": "cpu",
    "num-clients": 4,
    "clients-per-round": 3,
    "rounds": 2,
    "evaluate-every": 1,
    "local-epochs": 1,
    "batch-size": 32,
    "imbalance-factor": 0.1,
    "partitioner-options.alpha": 1.0,
}


@dataclass(frozen=True)
class MethodCheck:
    """One named check; call it with a method and, if it needs some, its options."""

    name: str
    run: Callable[[Federation], None]

    def __call__(self, method: Spec, options: Mapping[str, Any] | None = None) -> None:
        """Check a method, by name or class; raises `PluginError`, which says what is wrong with it."""
        federation = Federation(_config(method, options))
        try:
            self.run(federation)
        except _Broken as broken:
            # The traceback inside the suite would tell the user nothing more.
            raise PluginError(
                f"method {federation.method.name!r}, check {self.name!r}: {broken}"
            ) from None

    def __str__(self) -> str:
        return self.name


class _Broken(Exception):
    """What a check has found wrong."""


def method_checks() -> list[MethodCheck]:
    """All checks, in the order of `check_method`."""
    return [
        MethodCheck(function.__name__.removeprefix("_").replace("_", "-"), function)
        for function in (
            _parts_cover_the_network,
            _builds_the_same_network_twice,
            _trains,
            _same_update_from_the_same_state,
            _keeps_to_its_own_randomness,
            _sends_what_it_announces,
            _server_step_keeps_the_model,
            _predicts,
            _serves_a_client_of_one_class,
            _uniform_step_is_uniform,
            _examples_count_one_by_one,
            _probes_send_what_they_announce,
            _refuses_unknown_options,
            _runs_and_resumes,
        )
    ]


def check_method(method: Spec, options: Mapping[str, Any] | None = None) -> None:
    """Put a method through every check: ``check_method("path/to/file.py:MyMethod")``.

    Parameters
    ----------
    method : a name, a dotted name, ``path/to/file.py:Class``, or a class that can be imported.
    options : its ``[method-options]``, if it needs some.

    Raises
    ------
    PluginError
        Names the first check that fails, and what was expected.
    ConfigError
        The options are wrong.
    """
    for check in method_checks():
        check(method, options)


def _config(method: Spec, options: Mapping[str, Any] | None, **changes: Any) -> Config:
    name = method if isinstance(method, str) else f"{method.__module__}:{method.__qualname__}"
    if not isinstance(method, str) and METHODS.get(method.name) is method:
        name = method.name
    return from_flat(
        {**_SETTING, "method": name, "method-options": dict(options or {}), **changes},
        "check_method",
    )


def _parts_cover_the_network(fed: Federation) -> None:
    parts = {name: part for name, part in fed.method.parts.items() if name != NORM_LAYERS}
    children = {name for name, _ in fed.net.named_children()}
    if "backbone" not in children:
        raise _Broken(f"expected a child called backbone, got {sorted(children)}")
    if children != set(parts):
        raise _Broken(
            f"parts has {sorted(parts)}, the network has {sorted(children)}; say of each child "
            "whether it is shared, personal or fixed"
        )
    shares = any(part is Part.SHARED for part in parts.values())
    if not shares and (fed.method.primary_global or not fed.method.primary_personal):
        raise _Broken(
            "nothing is shared, so nothing is averaged; such a method has personal models and no global one"
        )
    for name, tensor in fed.net.state_dict().items():
        if not tensor.is_floating_point():
            raise _Broken(
                f"tensor {name!r} is {tensor.dtype}, expected floats, which can be averaged"
            )


def _builds_the_same_network_twice(fed: Federation) -> None:
    first, second = fed.method.build().state_dict(), fed.method.build().state_dict()
    for name, tensor in first.items():
        if not torch.equal(tensor, second[name]):
            raise _Broken(f"tensor {name!r} starts differently the second time; draw from the seed")


def _trains(fed: Federation) -> None:
    before = _state(fed)
    update = _update(fed, client=0)
    for name, value in update.metrics.items():
        if not isinstance(value, float) or value != value:
            raise _Broken(f"figure {name!r} of the update is {value!r}, expected a number")
    sends = any(bool(tensor.any()) for tensor in update.sums.values())
    if not sends and all(torch.equal(before[name], t) for name, t in _state(fed).items()):
        raise _Broken("a local update changes nothing and sends nothing")
    for name, tensor in fed.tensors(Part.FIXED).items():
        if not torch.equal(before[name], tensor):
            raise _Broken(f"tensor {name!r} is fixed, but a local update moves it")


def _same_update_from_the_same_state(fed: Federation) -> None:
    first, second = _update(fed, client=0), None
    trained = _state(fed)
    second = _update(fed, client=0)
    for name, tensor in _state(fed).items():
        if not torch.equal(trained[name], tensor):
            raise _Broken(
                f"tensor {name!r} differs after the same update; draw from rng(seed, purpose, "
                "round, client) alone, and keep nothing between updates"
            )
    if first.metrics != second.metrics:
        raise _Broken("the figures of the same update differ")


def _keeps_to_its_own_randomness(fed: Federation) -> None:
    _update(fed, client=0)  # so that all is built that is built at first use
    before = process_wide_states()
    _update(fed, client=1)
    after = process_wide_states()
    for source, state in before.items():
        if after[source] != state:
            raise _Broken(f"it draws from or seeds {source}; draw from fedloge.rng")


def _sends_what_it_announces(fed: Federation) -> None:
    update = _update(fed, client=0)
    _check_like(update.sums, fed.method.uplink(fed.net), "the sums of an update")


def _server_step_keeps_the_model(fed: Federation) -> None:
    aggregate = _aggregate(fed)
    _check_like(aggregate.shared, fed.initial[Part.SHARED], "the shared tensors after a round")
    _check_like(aggregate.state, fed.method.server_state(fed.net), "the server's state")


def _predicts(fed: Federation) -> None:
    _update(fed, client=0)
    method, net = fed.method, fed.net.eval()
    inputs = fed.data.preparation.prepare(fed.test.inputs[:4])
    given = method.global_predictors(net)
    if fed.has_global_network:
        found = {p.name: p.finish(net, _probe_sums(fed, p)).predictors for p in fed.probes}
        for predictors in found.values():
            given |= predictors
    _check_predictors(fed, given, inputs, method.primary_global, "global")
    for trained in (0, 1):
        personal = method.personal_predictors(net, _data(fed, 0, trained))
        _check_predictors(fed, personal, inputs, method.primary_personal, "personal")


def _serves_a_client_of_one_class(fed: Federation) -> None:
    data = _data(fed, 0)
    only = int(data.train.classes.mode().values)
    counts = torch.zeros_like(data.counts)
    counts[only] = int((data.train.classes == only).sum())
    alone = _replaced(
        data, train=data.train.take((data.train.classes == only).nonzero()[:, 0]), counts=counts
    )
    _start(fed)
    with torch_seeded(0, "check-method"):
        fed.method.local_update(fed.net, alone)
    for name, tensor in _state(fed).items():
        if not bool(tensor.isfinite().all()):
            raise _Broken(f"tensor {name!r} is not finite after a client of one class has trained")


def _uniform_step_is_uniform(fed: Federation) -> None:
    if not fed.method.uniform_step:
        return
    method = fed.method
    _update(fed, client=0)
    updated = _state(fed)
    _start(fed)
    data = _data(fed, 0)
    # The same batches, but everything else that a loss could read is another client's.
    other = _replaced(data, counts=data.counts.flip(0), rounds_trained=7)
    with torch_seeded(fed.config.seed, "check-method", 1, 0):
        sgd(
            fed.net,
            method.trainable(fed.net),
            method.loss,
            other,
            epochs=fed.config.local_epochs,
        )
    for name, tensor in _state(fed).items():
        if not torch.equal(updated[name], tensor):
            raise _Broken(
                f"uniform_step is true, but tensor {name!r} depends on more than the batch, or the "
                "update is not the plain loop over `loss`"
            )


def _examples_count_one_by_one(fed: Federation) -> None:
    method, data = fed.method, _data(fed, 0)
    if not method.example_by_example:
        return
    if method.uplink(fed.net):
        raise _Broken("example_by_example is true, but the update sends sums over the examples")
    _start(fed)
    net = fed.net.eval()
    inputs, labels = next(iter(data.batches(1)))
    parameters = method.trainable(net)
    total = torch.stack([*method.loss(net, inputs, labels, data).values()]).sum()
    whole = torch.autograd.grad(total, parameters, allow_unused=True)
    other = _replaced(data, counts=data.counts.flip(0))
    one_by_one = ExampleGradients(net, parameters, method.loss, other, contextlib.nullcontext())
    sums, _ = one_by_one.clipped_sum(inputs, labels, math.inf)
    for (name, summed), gradient in zip(sums.items(), whole, strict=True):
        expected = torch.zeros_like(summed) if gradient is None else gradient
        if not torch.allclose(summed / len(labels), expected, rtol=1e-3, atol=1e-5):
            raise _Broken(
                f"example_by_example is true, but a batch's gradient of {name.removeprefix('net.')!r} is not the "
                "mean of its examples' gradients, each computed alone and under other class counts; a loss must "
                "read parameters from the network that it is passed"
            )


def _probes_send_what_they_announce(fed: Federation) -> None:
    _update(fed, client=0)
    for probe in fed.probes:
        sums = probe.collect(fed.net, _data(fed, 0))
        _check_like(sums, probe.template(fed.net), f"what probe {probe.name!r} collects")
        logits = torch.zeros(1, fed.data.num_classes)
        own = probe.collect_personal(logits, fed.test.classes[:1])
        what = f"what probe {probe.name!r} collects of a personal model"
        _check_like(own, probe.personal_template(), what)


def _refuses_unknown_options(fed: Federation) -> None:
    options = {**fed.config.method_options, "no-such-option": 1}
    try:
        _ = Federation(fed.config.replace(method_options=options)).method
    except ConfigError:
        return
    raise _Broken("an unknown option is taken; derive Options from fedloge's and forbid extras")


def _runs_and_resumes(fed: Federation) -> None:
    with TemporaryDirectory(prefix="fedloge-") as folder:
        config = fed.config.replace(runs_dir=folder, name="checked", rounds=1)
        local.run(config)
        local.run(config.replace(rounds=2, resume=True))
        lines = RunFiles(Path(folder) / "checked").metrics.read_text("utf-8").splitlines()
        if len(lines) != 2:
            raise _Broken(f"expected two rounds on record after a resume, got {len(lines)}")


def _start(fed: Federation) -> None:
    fed.load(fed.initial[Part.SHARED], fed.initial[Part.PERSONAL])


def _data(fed: Federation, client: int, rounds_trained: int = 0) -> ClientData:
    return fed.client_data(client, 1, fed.initial[Part.SHARED], rounds_trained)


def _update(fed: Federation, client: int) -> Update:
    _start(fed)
    with torch_seeded(fed.config.seed, "check-method", 1, client):
        return fed.method.local_update(fed.net, _data(fed, client))


def _state(fed: Federation) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in fed.net.state_dict().items()}


def _aggregate(fed: Federation) -> Aggregate:
    state = fed.method.server_state(fed.net)
    update = _update(fed, client=0)
    shared = {name: tensor.clone() for name, tensor in fed.tensors(Part.SHARED).items()}
    return fed.method.server_update(fed.net, Aggregate(1, shared, update.sums, state))


def _probe_sums(fed: Federation, probe: Any) -> dict[str, Tensor]:
    parts = [probe.collect(fed.net, _data(fed, client)) for client in range(2)]
    summed: dict[str, Tensor] = {name: parts[0][name] + parts[1][name] for name in parts[0]}
    return summed | dict(probe.personal_template())


def _replaced(data: ClientData, **changes: Any) -> ClientData:
    return ClientData(**{**data.__dict__, **changes})


def _check_like(given: Mapping[str, Tensor], template: Mapping[str, Tensor], what: str) -> None:
    try:
        check_update(given, template, limit=2.0**40)
    except UpdateError as exc:
        raise _Broken(f"{what}: {exc}") from None


def _check_predictors(
    fed: Federation,
    given: Mapping[str, Predictor],
    inputs: Tensor,
    primary: str | None,
    kind: str,
) -> None:
    if primary is not None and primary not in given:
        raise _Broken(f"primary_{kind} is {primary!r}, the {kind} models are {sorted(given)}")
    for name, predictor in given.items():
        shape = _logits(fed.method, fed.net, predictor, inputs).shape
        if tuple(shape) != (len(inputs), fed.data.num_classes):
            raise _Broken(
                f"{kind} model {name!r} gives logits of shape {tuple(shape)}, expected one per class"
            )


@torch.no_grad()
def _logits(method: Method[Any], net: Network, predictor: Predictor, inputs: Tensor) -> Tensor:
    extract = getattr(method, predictor.extractor, None)
    if extract is None:
        raise _Broken(f"the method has no function {predictor.extractor!r} for its features")
    try:
        return predictor.head.logits(extract(net, inputs))
    except RuntimeError as exc:
        raise _Broken(f"features and head do not fit: {str(exc).splitlines()[0]}") from None
