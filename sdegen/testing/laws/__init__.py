"""The laws of a forward SDE, by what they ask of it.

A law is a function that raises `Violation`, and its name says what is wrong when it breaks. `every` holds those of all
SDEs, `linear`, `elementwise`, `matrix`, `nonlinear` and `known` those of these kinds; each module ends with the list of its laws.
"""

from .elementwise import ELEMENTWISE
from .every import EVERY
from .known import KNOWN, WAVES
from .linear import LINEAR
from .matrix import COUPLED, MATRIX
from .nonlinear import NONLINEAR, SIMULATED

__all__ = ["COUPLED", "ELEMENTWISE", "EVERY", "KNOWN", "LINEAR", "MATRIX", "NONLINEAR", "SIMULATED", "WAVES"]
