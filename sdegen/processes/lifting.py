"""`Lifting`, the part of a process that turns data into states and states into data: by coordinates and units of the process's
own, and by the further numbers that a state may have.
"""

from __future__ import annotations

__all__ = ["Lifting"]

from copy import copy
from typing import Any, Self

import torch
from torch import Tensor
from torch.distributions import constraints

from ..checks import check_tensor
from ..laws.coordinates import Coordinates, Successive
from ..laws.units import Units, dtype_that_tells
from .dynamics import Dynamics


class Lifting(Dynamics):
    """The part of a process that makes states of data and data of states: `lift`, `project` and `complete`, the same for all
    processes.

    Data become states in the coordinates and units of the process, ``u = (phi(x) − mean) / std``, where it has some. A process
    whose state is more than the data overrides `embed`, `extract` and `fill`, which know nothing of coordinates and units.

    Attributes
    ----------
    coordinates
        A one-to-one map ``phi`` that data go through first; none by default (`in_coordinates`).
    units
        The units that data, in these coordinates, have in states; their own by default (`in_units`).
    event_shape
        The shape of a datum, if the process is made for one shape; None for any shape.

    Raises
    ------
    TypeError
        When a subclass is defined that overrides `lift`, `project` or `complete`.
    """

    coordinates: Coordinates | None = None
    units: Units = Units()
    event_shape: tuple[int, ...] | None = None
    also_saved: tuple[str, ...] = ("coordinates", "units")

    def __init_subclass__(cls, **more: Any) -> None:
        """Refuse a class that overrides `lift`, `project` or `complete`, in which coordinates and units are handled.

        Raises
        ------
        TypeError
            If the class overrides one of these.
        """
        super().__init_subclass__(**more)
        for name, instead in (("lift", "embed"), ("project", "extract"), ("complete", "fill")):
            if getattr(cls, name) is not getattr(Lifting, name):
                raise TypeError(
                    f"{cls.__name__} overrides {name}, which also changes the units of the data; override {instead}, from which "
                    "it follows."
                )

    def in_units(self, units: Units) -> Self:
        """Return the process with data in the given units, and all else, learned parameters too, shared with this one.

        In units of the data's own spread, ``moments.units()``, a process is the same for data of every scale: what it does to
        ``a x + b`` is what it does to `x`. Its times, states, scores and laws at `t` are those of data of mean 0 and standard
        deviation 1.
        """
        other = copy(self)
        vars(other)["units"] = units  # past the lock of `Fixed`: the copy differs in this alone
        return other

    def in_coordinates(self, coordinates: Coordinates) -> Self:
        """Return the process with data in other coordinates ``phi(x)``, and all else shared with this one.

        States, laws, moments and units are then those of the coordinates. Data and samples are as before, and densities include
        the log-determinant of ``phi``. Data on a half-line, an interval or a simplex then stay there. If the process has
        coordinates already, data go through the new ones first.
        """
        other = copy(self)
        both = coordinates if self.coordinates is None else Successive([coordinates, self.coordinates])
        vars(other)["coordinates"] = both
        return other

    @property
    def measured_in(self) -> Coordinates | None:
        """The coordinates of which `prior` and others want the moments of the data; None for the data as they are."""
        return self.coordinates

    @property
    def has_units(self) -> bool:
        """Whether the process was given units, be they the data's own; `fit` then leaves them as they are."""
        return "units" in vars(self)

    @property
    def data_domain(self) -> constraints.Constraint:
        """The constraint that data meet: the domain of the coordinates, where the process has some, or else that of states."""
        return self.domain if self.coordinates is None else self.coordinates.domain

    def standardise(self, x: Tensor) -> Tensor:
        """Return data in the coordinates and units of the process.

        Raises
        ------
        TypeError
            If the data are no tensor.
        ValueError
            If some data lie outside of the domain of the coordinates.
        """
        if not isinstance(x, Tensor):
            check_tensor("data", x)
        return self.units.standardise(x if self.coordinates is None else self.coordinates(self.coordinates.check(x)))

    def restore(self, u: Tensor) -> Tensor:
        """Return data in their own coordinates and units, given those of the process, in a dtype that is fine enough
        (`telling`); the inverse of `standardise`.
        """
        x = self.units.restore(u)
        if self.coordinates is None:
            return x
        return self.coordinates.inverse(x.to(self.telling(x.dtype, x.device)))

    def telling(self, dtype: torch.dtype, device: torch.device) -> torch.dtype:
        """Return the coarsest dtype, from the given one on, in which rounding data costs little of their spread, by the units
        and the coordinates of the process.
        """
        told = self.units.telling(dtype, device)
        return told if self.coordinates is None else dtype_that_tells(told, device, self.coordinates.offset)

    def log_volume(self, x: Tensor) -> Tensor | float:
        """Return by how much the log-density of data is less than that in the coordinates and units of the process: ``(B,)``, or
        one number for all.
        """
        if self.coordinates is None:
            return self.units.log_det(x.shape[1:])
        return self.units.log_det(self.coordinates(x[:1]).shape[1:]) - self.coordinates.log_det(x)

    def lift(self, x: Tensor) -> Tensor:
        """Lift data to a state in the coordinates and units of the process, and return the state, which may have more
        channels.
        """
        return self.embed(self.standardise(x))

    def project(self, u: Tensor) -> Tensor:
        """Return the data of a state, in their own coordinates and units; the inverse of `lift`."""
        return self.restore(self.extract(u))

    def complete(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return states at 0 with the data `x`, the rest drawn with the noise `z`, and by how much the log-density of the data
        is less than that of such a state: the rest's own log-density, and the logarithm of the volume of coordinates and units.
        """
        u, log_rest = self.fill(self.standardise(x), z)
        return u, log_rest + self.log_volume(x)

    def embed(self, x: Tensor) -> Tensor:
        """Return the state, a linear map of data in the units of the process; here the data themselves."""
        return x

    def extract(self, u: Tensor) -> Tensor:
        """Return the data in a state, in the units of the process; the inverse of `embed`."""
        return u

    def fill(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return states at 0 with the data `x` in the units of the process, the rest drawn with the noise `z`, and the
        log-density of the rest; here there is no rest.
        """
        return x, x.new_zeros(len(x))
