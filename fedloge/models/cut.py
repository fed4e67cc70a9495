"""A network cut in two before its last stage: what is frozen, whose output is kept, and what is trained.

Only the code that calls the cut-off stage and what comes after it is traced (torch.fx); the stages
themselves stay modules, whose modes can be changed. The two halves are checked against the whole.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, fx, nn

from fedloge.errors import ConfigError, in_one_line
from fedloge.models.backbone import Backbone

# What libraries call that which comes before and after the stages, where it has blocks of its own.
_NO_STAGES = ("stem", "patch_embed", "head", "classifier")


class _Reached(Exception):
    def __init__(self, inputs: Tensor) -> None:
        super().__init__()
        self.inputs = inputs


class Prefix(nn.Module):
    """A backbone up to the input of one of its modules; the rest is not computed."""

    def __init__(self, backbone: Backbone, first: str) -> None:
        super().__init__()
        self.backbone = backbone
        self._first = first

    def forward(self, inputs: Tensor) -> Tensor:
        """(examples, ...) to what the module takes."""
        stage = self.backbone.load_target().get_submodule(self._first)
        handle = stage.register_forward_pre_hook(_stop)
        try:
            self.backbone(inputs)
        except _Reached as reached:
            return reached.inputs
        finally:
            handle.remove()
        raise AssertionError(f"{self._first} was not called")


class Suffix(Backbone):
    """A backbone from one of its modules on, whose input is that module's."""

    def __init__(self, graph: nn.Module, out_features: int) -> None:
        super().__init__()
        self.net = graph
        self.out_features = out_features

    def forward(self, kept: Tensor) -> Tensor:
        """What the module takes to (examples, features)."""
        features: Tensor = self.net(kept)
        return features


def last_stage(net: nn.Module) -> str:
    """The name of the module with which the last stage begins.

    A stage is a module that consists of blocks of layers. Where a module has several, the last is
    meant; where one has a single one (``blocks``, ``features``), the stages are looked for inside. In
    a network without blocks it is the last layer with weights.

    Raises
    ------
    ConfigError
        The network has no weights.
    """
    path: list[str] = []
    while True:
        stages = [(n, m) for n, m in net.named_children() if _depth(m) >= 2 and n not in _NO_STAGES]
        if stages:
            name, net = stages[-1]
            path.append(name)
        if len(stages) == 1:
            continue
        if path:
            return ".".join(path)
        layers = [n for n, m in net.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
        if not layers:
            raise ConfigError("train-part: the model has no layers to be the last stage; use none")
        return layers[-1]


def cut_before(backbone: Backbone, first: str, input_shape: tuple[int, ...]) -> Suffix:
    """The part of a backbone from its module `first` on; shares the backbone's tensors.

    Parameters
    ----------
    first : name of a module within `Backbone.load_target`.
    input_shape : of one prepared input of the whole backbone.

    Raises
    ------
    ConfigError
        There is no such module, or more than its input leads to the features.
    """
    net = backbone.load_target()
    if first not in dict(net.named_modules()) or not first:
        names = [name for name, _ in net.named_children()]
        raise ConfigError(
            f"train-part-options.first: the model has no module {first!r}; its parts are "
            f"{', '.join(names)}, and theirs"
        )
    backbone.eval()
    try:
        suffix = Suffix(_traced(net, first), backbone.out_features)
        same = _is_the_rest(backbone, first, suffix, input_shape)
    except Exception as exc:  # whatever the network's own code raises when it is traced
        same, why = False, in_one_line(exc)
    else:
        why = "the two parts give other features than the whole"
    if not same:
        raise ConfigError(
            f"train-part: the model cannot be cut before {first!r} ({why}); name another module with "
            "train-part-options.first, or train an adapter"
        )
    return suffix


class _Tracer(fx.Tracer):
    """Looks only into the modules around the cut."""

    def __init__(self, first: str) -> None:
        super().__init__()
        self._around = {first[:at] for at, letter in enumerate(first) if letter == "."}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name not in self._around


def _traced(net: nn.Module, first: str) -> fx.GraphModule:
    parameters = inspect.signature(net.forward).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    graph = _Tracer(first).trace(net, concrete_args=defaults)
    calls = [node for node in graph.nodes if node.op == "call_module" and node.target == first]
    if len(calls) != 1 or len(calls[0].all_input_nodes) != 1:
        raise ValueError(f"{first} is called {len(calls)} times, or with more than one tensor")
    whole, source = next(iter(graph.nodes)), calls[0].all_input_nodes[0]
    with graph.inserting_before(whole):
        kept = graph.placeholder("kept")
    source.replace_all_uses_with(kept)
    rest = fx.GraphModule(net, graph)
    rest.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    for node in [n for n in rest.graph.nodes if n.op == "placeholder" and n is not kept]:
        if node.users:
            raise ValueError(f"what comes after {first} also reads what came before it")
        rest.graph.erase_node(node)
    rest.recompile()
    rest.delete_all_unused_submodules()
    return rest


@torch.no_grad()
def _is_the_rest(
    backbone: Backbone, first: str, suffix: Suffix, input_shape: tuple[int, ...]
) -> bool:
    inputs = torch.randn(2, *input_shape, generator=torch.Generator().manual_seed(0))
    return torch.equal(suffix.eval()(Prefix(backbone, first)(inputs)), backbone(inputs))


def _stop(module: nn.Module, inputs: Any) -> None:
    raise _Reached(inputs[0])


def _depth(module: nn.Module) -> int:
    inner = [_depth(child) for child in module.children() if any(True for _ in child.parameters())]
    return 1 + max(inner) if inner else 0
