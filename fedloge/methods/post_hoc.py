"""Global models made from a trained head by rescaling its rows; nothing is trained."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from fedloge.errors import ConfigError, unknown_name
from fedloge.geometry.realignment import tau_norm
from fedloge.methods.method import Predictor
from fedloge.models.head import LinearHead

# Kang et al. choose tau on a validation set; for ImageNet-LT they find 0.7.
_DEFAULT_TAU = 0.7


def post_hoc(text: str, weight: Float[Tensor, "classes features"]) -> dict[str, Predictor]:
    """The models that the option ``post-hoc`` asks for, by name; they have no bias.

    ``tau-norm`` or ``tau-norm = TAU`` divides the rows by ||psi_c||^TAU (Kang et al., "Decoupling
    Representation and Classifier for Long-Tailed Recognition", ICLR 2020). ``ga-fr`` is FedLoGe's
    global realignment, which is TAU = 1; its model is called ``realigned``. Several are separated
    by commas.

    Raises
    ------
    ConfigError
        The text names another model, or TAU is not a number from 0 to 1.
    """
    found: dict[str, Predictor] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (part.strip() for part in item.partition("="))
        if name == "ga-fr" and not equals:
            found["realigned"] = Predictor(LinearHead(tau_norm(weight, 1.0)))
        elif name == "tau-norm":
            tau = _tau(value) if equals else _DEFAULT_TAU
            found["tau-norm"] = Predictor(LinearHead(tau_norm(weight, tau)))
        else:
            raise ConfigError(f"post-hoc: {unknown_name('model', item, ('ga-fr', 'tau-norm'))}")
    return found


def _tau(text: str) -> float:
    try:
        tau = float(text)
    except ValueError:
        tau = -1.0
    if not 0 <= tau <= 1:
        raise ConfigError(f"post-hoc: tau-norm takes a number from 0 to 1, got {text!r}")
    return tau
