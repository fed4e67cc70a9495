"""Global models made from a trained head by rescaling its rows; nothing is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from jaxtyping import Float, Int
from torch import Tensor

from fedloge.errors import ConfigError, unknown_name
from fedloge.geometry.law_fit import fit_law, law_tau
from fedloge.geometry.realignment import tau_norm
from fedloge.methods.method import Predictor
from fedloge.models.head import LinearHead

# Kang et al. choose tau on a validation set; for ImageNet-LT they find 0.7.
_DEFAULT_TAU = 0.7


def post_hoc(
    text: str,
    weight: Float[Tensor, "classes features"],
    counts: Callable[[str], Int[Tensor, " classes"]] | None = None,
) -> dict[str, Predictor]:
    """The models that the option ``post-hoc`` asks for, by name; they have no bias.

    ``tau-norm``, ``tau-norm = TAU`` or ``tau-norm = law`` divides the rows by ||psi_c||^TAU (Kang et
    al., "Decoupling Representation and Classifier for Long-Tailed Recognition", ICLR 2020); with
    ``law``, TAU is what class sizes explain of the norms (`fedloge.geometry.law_fit.law_tau`).
    ``ga-fr`` is FedLoGe's global realignment, which is TAU = 1; its model is called ``realigned``.
    ``tau-norm = auto`` is not here: its tau is chosen on validation examples
    (`fedloge.methods.chosen_tau`). Several are separated by commas.

    Parameters
    ----------
    counts : gives the class counts of all clients, for what it is told; None: only the text is checked.

    Raises
    ------
    ConfigError
        The text names another model, or TAU is not a number from 0 to 1.
    """
    found: dict[str, Predictor] = {}
    for item, name, equals, value in _items(text):
        if name == "ga-fr" and not equals:
            found["realigned"] = Predictor(LinearHead(tau_norm(weight, 1.0)))
        elif name == "tau-norm" and value == "auto":
            continue
        elif name == "tau-norm":
            tau = _DEFAULT_TAU
            if value == "law":
                tau = (
                    1.0 if counts is None else _law_tau(counts("post-hoc: tau-norm = law"), weight)
                )
            elif equals:
                tau = _tau(value)
            found["tau-norm"] = Predictor(LinearHead(tau_norm(weight, tau)))
        else:
            raise ConfigError(f"post-hoc: {unknown_name('model', item, ('ga-fr', 'tau-norm'))}")
    return found


def _law_tau(counts: Tensor, weight: Tensor) -> float:
    norms = weight.norm(dim=1).double().cpu().numpy()
    return law_tau(fit_law(counts.cpu().numpy(), norms), norms)


def tau_is_chosen(text: str) -> bool:
    """Whether the option asks for ``tau-norm = auto``."""
    return any(name == "tau-norm" and value == "auto" for _, name, _, value in _items(text))


def _items(text: str) -> Iterator[tuple[str, str, str, str]]:
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (part.strip() for part in item.partition("="))
        yield item, name, equals, value


def _tau(text: str) -> float:
    try:
        tau = float(text)
    except ValueError:
        tau = -1.0
    if not 0 <= tau <= 1:
        raise ConfigError(
            f"post-hoc: tau-norm takes law, auto or a number from 0 to 1, got {text!r}"
        )
    return tau
