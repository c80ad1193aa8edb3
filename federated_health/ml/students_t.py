"""Student's t distribution, as SciPy has it, whose import costs each hospital a second of CPU time.

With w^2 = f log(1 + t^2 / f), the density of t on f degrees of freedom becomes nearly the normal one of w (Wallace
1959), which Gaussian quadrature integrates to 12 digits.
"""

from statistics import NormalDist
from typing import Any

import numpy as np

_LENGTH = 12.0
"""So far beyond any w, the density is 0 to double precision."""

_NODES, _WEIGHTS = (_LENGTH / 2 * part for part in np.polynomial.legendre.leggauss(100))
_NODES += _LENGTH / 2

_STEPS = 8
"""Steps of Newton's method, which doubles the number of exact digits with each."""


def p_value_of(t: float, freedom: float) -> float:
    """Probability of a value at least as far from 0 as t, on so many degrees of freedom."""
    return _tail(np.sqrt(freedom * np.log1p(t**2 / freedom)), freedom) / _tail(0.0, freedom)


def quantile_of(level: float, freedom: float) -> float:
    """The t within which, on both sides of 0, values are with probability `level`."""
    target, w = (1 - level) * _tail(0.0, freedom), NormalDist().inv_cdf((1 + level) / 2)  # slightly too small
    for _ in range(_STEPS):
        w += (_tail(w, freedom) - target) / float(_density(w, freedom))
    return float(np.sqrt(freedom * np.expm1(w**2 / freedom)))


def _tail(w: float, freedom: float) -> float:
    """Integral of the density of w from here on, up to a factor."""
    return float(_WEIGHTS @ _density(w + _NODES, freedom))


def _density(w: Any, freedom: float) -> Any:
    """Density of w > 0, up to a factor."""
    return np.exp(-(w**2) / 2) * w / np.sqrt(-np.expm1(-(w**2) / freedom))
