"""Linear algebra with one result on every machine.

BLAS adds in an order that depends on the processor, the library and the number of
threads, so its last bits differ. Here both factors are first rounded to integers times
a power of two, so small that every sum of their products fits into float64's 53 bits.
Then nothing is rounded, and every order of summation gives the same bits. All else
is elementwise (IEEE 754 rounds + - * / and sqrt in one way only) or a sum along a
fixed tree.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float64
from numpy import ndarray

# A row and a column of at most 2**26 grid steps each have, by Cauchy and Schwarz, a
# sum of products below 2**53 however it is cut into parts.
_BITS = 26


def tree_sum(x: Float[ndarray, " n *rest"]) -> Float[ndarray, "*rest"]:
    """Sum over the first axis: one half is added to the other until one row is left."""
    while len(x) > 1:
        half = len(x) // 2
        folded = x[:half] + x[len(x) - half :]
        x = np.concatenate([folded, x[half : half + 1]]) if len(x) % 2 else folded
    return np.asarray(x[0])


def inner(a: Float64[ndarray, "*shape"], b: Float64[ndarray, "*shape"]) -> float:
    """Sum of the products of all entries."""
    return float(tree_sum((a * b).ravel()))


def row_norms(x: Float64[ndarray, "rows columns"]) -> Float64[ndarray, " rows"]:
    """Euclidean norm of every row."""
    return np.sqrt(tree_sum((x * x).T))


def product(a: Float64[ndarray, "m k"], b: Float64[ndarray, "k n"]) -> Float64[ndarray, "m n"]:
    """``a @ b``, each entry accurate to about 2**-26 times the largest row norm times the largest column norm."""
    return _on_grid(a, row_norms(a)) @ _on_grid(b, row_norms(b.T))


def gram(x: Float64[ndarray, "rows columns"]) -> Float64[ndarray, "rows rows"]:
    """``x @ x.T``, each entry accurate to about 2**-26 times the largest squared row norm."""
    rounded = _on_grid(x, row_norms(x))
    return rounded @ rounded.T


def _on_grid(x: Float64[ndarray, "m n"], norms: Float64[ndarray, " k"]) -> Float64[ndarray, "m n"]:
    _, exponent = np.frexp(norms.max())
    steps = np.ldexp(1.0, _BITS - int(exponent))
    return np.rint(x * steps) / steps
