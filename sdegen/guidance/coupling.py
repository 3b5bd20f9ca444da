"""The coupling of data with a noisy copy of them that is measured: its conditional laws, and the law of the data alone.

The joint law is ``p(x) N(z; x, level² D²) N(y; A z, std²)``, with the spread `D` of the units of the data `x`, their copy `z` and
what was seen, `y`. Given data and `y`, the copy is Gaussian; given the copy, the data are what the reversed process makes of it.
"""

from __future__ import annotations

__all__ = ["CoupledCopy"]

from typing import Any

import torch
from torch import Tensor

from ..laws.draws import noise_like
from ..models.score import ScoreModel
from ..processes.grids import Angle
from ..processes.scalar import ScalarSDE, as_scalar
from ..samplers.base import Sampler
from ..samplers.exponential_sde import ExponentialSDE
from ..samplers.run import sample
from ..samplers.start import check_conditions
from .measuring import LinearMeasurement, as_measured, check_measured

MOST = 2**13  # measured numbers, of which a square matrix is decomposed
TOGETHER = 256  # rows of that matrix that are formed at a time
WIDE = 100.0  # spreads of the data: of a copy with more noise nothing is learned
FINE = 1e-6  # of the largest level: the least that is told from none


class CoupledCopy:
    """A score model's data, coupled with a measured copy of them by Gaussian noise.

    With ``S = std² + level² A D² Aᵀ`` the data alone have the law ``p(x) N(y; A x, S)``, which the two draws, one after the
    other, leave as it is; as the level goes to 0 it becomes the posterior.

    Parameters
    ----------
    model
        A score model of a scalar process.
    measurement
        What was done to the data, a linear map.
    y
        What was seen, of one datum or of each.
    generator
        Randomness.
    steps
        Evaluations of a draw of data.
    batch
        Most samples that go through the model at a time; None for all.
    cond
        Conditions of the model.

    Raises
    ------
    TypeError
        If the process is not scalar, or has data in other coordinates.
    ValueError
        If `y` is not finite, or too many numbers are measured.
    """

    def __init__(
        self,
        model: ScoreModel,
        measurement: LinearMeasurement,
        y: Any,
        generator: torch.Generator,
        steps: int,
        batch: int | None,
        cond: dict[str, Any],
    ) -> None:
        self.model, self.measurement, self.y = model, measurement, as_measured(y)
        self.generator, self.steps, self.batch, self.cond = generator, steps, batch, cond
        self.sde = _require_plain(model)
        check_conditions(model, {"y": self.y})
        self.asked = 0  # evaluations of the model so far, of each sample
        self._axes: tuple[Tensor, Tensor] | None = None

    @property
    def largest(self) -> float:
        """The noise level from which couplings begin: that of the process at T, at most a hundred spreads of the data."""
        return min(_level(self.sde, self.sde.T), WIDE * self.spread)

    @property
    def least(self) -> float:
        """The least noise level of a coupling: twice that where the model's data end."""
        end = self.sde.t_min if self.model.end is None else self.model.end
        return max(2 * _level(self.sde, end), FINE * self.largest)

    @property
    def spread(self) -> float:
        """The standard deviation of a number of the data, in the units of the process."""
        return self.model.state_moments(" for the noise levels").variance().sqrt().item()

    def reach(self, x: Tensor) -> float:
        """Return the level at which a copy adds the variance of the measurement's noise to what is seen best of data like `x`."""
        values, _ = self._decomposed(x)
        return self.measurement.std / values[-1].sqrt().clamp_min(torch.finfo(torch.float64).tiny).item()

    def misfit(self, x: Tensor) -> Tensor:
        """Return ``y − A x`` along the eigenvectors of ``A D² Aᵀ``, ``(n, m)``, float64 on the CPU."""
        _, vectors = self._decomposed(x)
        return self._missed(x).flatten(1).double().cpu() @ vectors

    def log_likelihood(self, misfit: Tensor, level: float) -> Tensor:
        """Return ``log N(y; A x, S)`` of data with this misfit, ``(n,)``, but for a constant of all data and levels."""
        values, _ = self._decomposed(misfit)
        S = self.measurement.std**2 + level**2 * values
        return -0.5 * (misfit.square() / S).sum(1) - 0.5 * S.log().sum()

    def draw_copy(self, x: Tensor, level: float) -> Tensor:
        """Draw the copy given the data and what was measured, exactly: a copy without the measurement, put right by its misfit
        to a measurement with noise.

        ``z = z' + level² D² Aᵀ S⁻¹ (y + std n − A z')`` with ``z' ~ N(x, level² D²)``. G. Papandreou, A. Yuille, *Gaussian
        sampling by local perturbations*, 2010.
        """
        A, stretch = self.measurement, self.sde.units.stretch
        z = self.add_noise(x, level)
        missed = self._missed(z)
        missed = missed + A.std * noise_like(missed, self.generator)
        values, vectors = (v.to(missed) for v in self._decomposed(x))
        u = (missed.flatten(1) @ vectors / (A.std**2 + level**2 * values)) @ vectors.T
        return z + level**2 * stretch(stretch(A.transpose(u.reshape(missed.shape), x.shape[1:])))

    def draw_prior(self, n: int) -> Tensor:
        """Draw `n` data of the model alone, in twice the evaluations of other draws: from pure noise it is further."""
        self.asked += 2 * self.steps
        sampler = ExponentialSDE(2 * self.steps, Angle(end=self.model.end))
        return sample(self.model, n, sampler=sampler, seed=self._seed(), batch=self.batch, progress=False, **self.cond)

    def add_noise(self, x: Tensor, level: float) -> Tensor:
        """Draw the copy given the data alone."""
        return x + level * self.sde.units.stretch(noise_like(x, self.generator))

    def draw_data(self, z: Tensor, level: float) -> Tensor:
        """Draw the data given the copy, by the reversed process from its noise level."""
        return self.denoise(z, level, ExponentialSDE(self.steps))

    def denoise(self, z: Tensor, level: float, sampler: Sampler) -> Tensor:
        """Return what a sampler makes of copies of a noise level; its grid begins there."""
        t = self.sde.time(level**-2.0).item()
        sampler.grid = Angle(start=t, end=self.model.end)
        self.asked += self.steps
        x = self.sde.marginal(t).Phi(self.sde.lift(z))
        return sample(
            self.model, x_T=x, sampler=sampler, seed=self._seed(), batch=self.batch, progress=False, **self.cond
        )

    def refuse_rows(self, x: Tensor) -> None:
        """Refuse a measurement of each datum, for particles, which are drawn anew and change places on the way."""
        if self.y.ndim == self.measurement.measure(x[:1]).ndim and len(self.y) > 1:
            raise ValueError("y has a row for each particle; give one y without rows, which all particles share.")

    def _seed(self) -> int:
        """Draw the seed of a run."""
        return int(torch.randint(2**31, (), generator=self.generator))

    def _missed(self, x: Tensor) -> Tensor:
        """Return ``y − A x``, of the shape of what is measured."""
        seen = self.measurement.measure(x)
        return check_measured({"y": self.y}, seen) - seen

    def _decomposed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return eigenvalues and eigenvectors of ``A D² Aᵀ``, float64, found at the first call from data of the shape."""
        if self._axes is None:
            A, stretch = self.measurement, self.sde.units.stretch
            one = A.measure(x[:1].double().cpu())[0]
            if one.numel() > MOST:
                raise ValueError(
                    f"{one.numel()} numbers are measured, and a matrix of as many sides is decomposed; measure at most {MOST}, "
                    "or take PiGDM, which solves by iterations."
                )
            basis = torch.eye(one.numel(), dtype=torch.float64).reshape(-1, *one.shape)
            rows = [A.measure(stretch(stretch(A.transpose(u, x.shape[1:])))) for u in basis.split(TOGETHER)]
            values, vectors = torch.linalg.eigh(torch.cat(rows).flatten(1))
            self._axes = values.clamp_min(0), vectors
        return self._axes


def _level(sde: ScalarSDE, t: float) -> float:
    """Return ``sigma / alpha`` at a time."""
    return sde.log_snr(t).neg().div(2).exp().item()


def _require_plain(model: ScoreModel) -> ScalarSDE:
    """Return the process of a model; refuse one whose states are not data with noise, the same for all numbers."""
    why = "; a copy of the data with noise is no state of it: take PiGDM or DPS, which need none."
    sde = as_scalar(model.sde, why)
    if sde.coordinates is not None:
        raise TypeError(
            f"the process has data in other coordinates, {sde.coordinates!r}, and what is measured of the data is not linear "
            "there; model the data as they are."
        )
    return sde
