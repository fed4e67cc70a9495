"""The imbalanced law fitted to norms that were measured: how far class sizes explain them.

For one linear layer the law is ||w_k||^2 = sqrt(n_k lambda_H / lambda_W) - N lambda_H, or 0 where
that is negative, and ||h_k|| = ||w_k|| / (||w_k||^2 + N lambda_H) (`fedloge.geometry.imbalanced`).
In the class size n and the size t up to which classes collapse, these are proportional to
(sqrt(n) - sqrt(t))^(1/2), and to that over sqrt(n): small classes have short rows and long
features. The penalties that a network really feels are not known: features are not free, and
training stops early. So the two numbers are fitted, the scale and t.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64, Num
from numpy import ndarray

from fedloge.errors import GeometryError

_GRID = 400
_REFINED = 6


@dataclass(frozen=True, eq=False)
class LawFit:
    """The law nearest to measured norms, by least squares.

    Parameters
    ----------
    norms : what the law says of every class, in float64; 0 for a class without examples, or under
        the threshold.
    scale : the factor of the shape above.
    threshold : t, examples up to which a class collapses.
    r_squared : share of the variance of the norms that the law explains, over classes with examples;
        1 a perfect fit, 0 or less no better than their mean. NaN where all norms are equal.
    """

    norms: Float64[ndarray, " classes"]
    scale: float
    threshold: float
    r_squared: float

    def under(self, counts: Num[ndarray, " classes"]) -> list[int]:
        """The classes that have examples, and no more than the threshold."""
        return np.flatnonzero((counts > 0) & (counts <= self.threshold)).tolist()

    def threshold_of(self, examples: float, of: float) -> float:
        """The threshold where `examples` are trained on, and not the `of` of the fit, under the same penalties.

        A class survives if n > N^2 lambda_W lambda_H, so it grows with the square of N.
        """
        return self.threshold * (examples / of) ** 2


def fit_law(
    counts: Num[ndarray, " classes"],
    norms: Num[ndarray, " classes"],
    of: Literal["rows", "features"] = "rows",
) -> LawFit:
    """Fit the law of depth 1 to norms of a head's rows, or of class means of features.

    Raises
    ------
    GeometryError
        Fewer than three classes have examples, or a norm of theirs is negative or not finite.
    """
    n, measured = counts.astype(np.float64), norms.astype(np.float64)
    known = n > 0
    if (
        known.sum() < 3
        or not (measured[known] >= 0).all()
        or not np.isfinite(measured[known]).all()
    ):
        raise GeometryError(
            "imbalanced law: expected finite norms of three classes or more with examples, got "
            f"{int(known.sum())} classes with norms {measured[known][:5].tolist()}"
        )
    root, found = np.sqrt(n[known]), measured[known]

    def shapes(places: Float64[ndarray, " places"]) -> Float64[ndarray, "places known"]:
        rows: Float64[ndarray, "places known"] = np.sqrt(np.maximum(root - places[:, None], 0))
        return rows if of == "rows" else rows / root

    low, high = 0.0, float(root.max()) * (1 - 1e-9)
    for _ in range(_REFINED):
        places = np.linspace(low, high, _GRID)
        curves = shapes(places)
        scales = curves @ found / (curves**2).sum(axis=1)
        errors = ((found - scales[:, None] * curves) ** 2).sum(axis=1)
        # The lowest of those that are as good: where nothing speaks for a threshold, it is 0.
        best = int(np.argmax(errors <= errors.min() * (1 + 1e-12)))
        error, place, scale = float(errors[best]), float(places[best]), float(scales[best])
        width = (high - low) / _GRID
        low, high = max(0.0, place - width), min(high, place + width)
    variance = float(((found - found.mean()) ** 2).sum())
    predicted = np.zeros(len(n))
    predicted[known] = scale * shapes(np.array([place]))[0]
    return LawFit(
        norms=predicted,
        scale=scale,
        threshold=place**2,
        r_squared=1 - error / variance if variance > 0 else math.nan,
    )


def law_tau(fit: LawFit, norms: Num[ndarray, " classes"]) -> float:
    """The tau for which ||psi_c||^tau is nearest to the law's norms, up to a factor; from 0 to 1.

    Dividing by ||psi_c||^tau (tau-norm) then takes out what class sizes explain of the norms, and
    leaves what they do not. 1 if the law explains them all; GA-FR is tau = 1.
    """
    kept = (fit.norms > 0) & (norms > 0)
    if kept.sum() < 2:
        return 1.0
    law, of = np.log(fit.norms[kept]), np.log(norms[kept].astype(np.float64))
    spread = of - of.mean()
    total = float(spread @ spread)
    slope = float((law - law.mean()) @ spread) / total if total > 0 else 1.0
    return min(1.0, max(0.0, slope))


def law_divisors(fit: LawFit, norms: Num[ndarray, " classes"]) -> Float64[ndarray, " classes"]:
    """What realignment towards the law divides rows by: the law's norm; a row's own where that is 0."""
    divisors: Float64[ndarray, " classes"] = np.where(fit.norms > 0, fit.norms, norms)
    return divisors
