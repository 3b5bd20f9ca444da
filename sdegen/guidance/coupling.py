"""Laws between that of the data and that of data given a measurement, and moves that leave them unchanged, by noising and
denoising.

`CoupledCopy` is for linear measurements: it adds a noisy copy of the data, the auxiliary variable of split Gibbs samplers, and
the measurement is of the copy. The joint law of the data `x`, their copy `z` and the measured values `y` is
``p(x) N(z; x, level² D²) N(y; A z, std²)``, with the spread `D` of the data's units. Given data and `y`, the copy is Gaussian;
given the copy, data are drawn by the reversed process. For all other measurements `AcceptedNoise` accepts or refuses noised and
denoised data, and `langevin` draws copies.
"""

from __future__ import annotations

__all__ = ["AcceptedNoise", "CopiedData", "CoupledCopy", "NoisedData", "WeighedData"]

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from ..checks import check_tensor
from ..laws.draws import noise_like
from ..laws.vectors import over_rows
from ..models.score import ScoreModel
from ..processes.grids import Angle
from ..processes.scalar import ScalarSDE, as_scalar
from ..samplers.base import Sampler
from ..samplers.exponential_sde import ExponentialSDE
from ..samplers.run import sample
from .measuring import LinearMeasurement, Measurement, as_measured, check_measured

MOST = 2**13  # measured numbers, at most, since a square matrix over them is decomposed
TOGETHER = 256  # rows of that matrix that are formed at a time
WIDE = 100.0  # spreads of the data: a copy with more noise tells nothing
FIRST = 3.0  # spreads of the data: the noise of the first moves that are accepted or refused
FLAT = 1e8  # the level at which a likelihood has the power 1e-16
ACCEPTED = 0.5  # target for the share of accepted moves
FINE = 1e-6  # of the largest level: lower levels count as no noise


class NoisedData(ABC):
    """The base class of laws that lead from a model's data to data given a measurement, and of moves that leave each law
    unchanged.

    Subclass it with `move`, which noises data and denoises them.

    Parameters
    ----------
    model
        A score model of a scalar process.
    measurement
        The measurement of the data.
    y
        The measured values, of one datum or of each.
    generator
        Randomness.
    steps
        Evaluations of a draw of data.
    batch
        The largest number of samples that go through the model at a time; None for all.
    cond
        Conditions of the model.

    Raises
    ------
    TypeError
        If the process is not scalar, or has data in other coordinates.
    ValueError
        If `y` is not finite, or the measurement does not measure each datum alone.
    """

    def __init__(
        self,
        model: ScoreModel,
        measurement: Measurement,
        y: Any,
        generator: torch.Generator,
        steps: int,
        batch: int | None,
        cond: dict[str, Any],
    ) -> None:
        self.model, self.measurement, self.y = model, measurement, as_measured(y)
        self.generator, self.steps, self.batch, self.cond = generator, steps, batch, cond
        self.sde = _require_plain(model)
        check_tensor("y", self.y, floating=False)  # counts are whole numbers
        measurement.refuse_mixing(model)
        self.evaluations = 0  # evaluations of the model so far, of each sample

    @property
    def largest(self) -> float:
        """The level of the first law, which is almost that of the data alone."""
        return self._noisiest

    @property
    def least(self) -> float:
        """The lowest noise level to which data are noised: twice that at which sampling from the model ends."""
        end = self.sde.t_min if self.model.end is None else self.model.end
        return max(2 * _level(self.sde, end), FINE * self._noisiest)

    @property
    def _noisiest(self) -> float:
        """The noise level at T, at most a hundred spreads of the data."""
        return min(_level(self.sde, self.sde.T), WIDE * self.spread)

    @property
    def spread(self) -> float:
        """The standard deviation of a number of the data, in the units of the process."""
        return self.model.state_moments(" for the noise levels").variance().sqrt().item()

    @abstractmethod
    def move(self, x: Tensor, level: float) -> Tensor:
        """Return moved data; a move leaves the law of the level unchanged."""

    def draw_prior(self, n: int) -> Tensor:
        """Draw `n` data of the model alone, by twice the evaluations of other draws, since pure noise is farther from data."""
        self.evaluations += 2 * self.steps
        sampler = ExponentialSDE(2 * self.steps, Angle(end=self.model.end))
        return sample(self.model, n, sampler=sampler, seed=self._seed(), batch=self.batch, progress=False, **self.cond)

    def draw_data(self, z: Tensor, level: float) -> Tensor:
        """Draw the data given the copy, by the reversed process from its noise level."""
        return self.denoise(z, level, ExponentialSDE(self.steps))

    def add_noise(self, x: Tensor, level: float) -> Tensor:
        """Draw the copy given the data alone."""
        return x + level * self.sde.units.stretch(noise_like(x, self.generator))

    def denoise(self, z: Tensor, level: float, sampler: Sampler) -> Tensor:
        """Return the data that a sampler makes of copies of a noise level, at which its grid begins."""
        t = self.sde.time(level**-2.0).item()
        sampler.grid = Angle(start=t, end=self.model.end)
        self.evaluations += self.steps
        x = self.sde.marginal(t).Phi(self.sde.lift(z))
        return sample(
            self.model, x_T=x, sampler=sampler, seed=self._seed(), batch=self.batch, progress=False, **self.cond
        )

    def refuse_rows(self, x: Tensor) -> None:
        """Refuse a measurement of each datum, since particles are resampled and change places on the way."""
        if self.y.ndim == self.measurement.measure(x[:1]).ndim and len(self.y) > 1:
            raise ValueError("y has a row for each particle; give one y without rows, which all particles share.")

    def _seed(self) -> int:
        """Draw the seed of a run."""
        return int(torch.randint(2**31, (), generator=self.generator))

    def _missed(self, x: Tensor) -> Tensor:
        """Return ``y − A x``, of the shape of the measurement."""
        seen = self.measurement.measure(x)
        return check_measured(self.y, seen) - seen


class WeighedData(NoisedData):
    """The base class of laws that are ``p(x)`` times a likelihood, which is flat at the largest level and the true likelihood at
    0.

    Subclass it with `statistic`, `log_likelihood` and `move`.

    Parameters
    ----------
    model, measurement, y, generator, steps, batch, cond
        As for `NoisedData`.
    """

    @abstractmethod
    def statistic(self, x: Tensor) -> Tensor:
        """Return a statistic of the data from which the likelihoods of all levels follow, a row for each, float64 on the CPU."""

    @abstractmethod
    def log_likelihood(self, statistic: Tensor, level: float) -> Tensor:
        """Return the logarithm of the likelihood at a level, ``(n,)`` float64, up to a constant of all data and levels."""


class CopiedData(NoisedData):
    """The base class of laws of data with a noisy copy, which is measured in place of the data.

    Subclass it with `draw_copy` and `matching_level`.

    Parameters
    ----------
    model, measurement, y, generator, steps, batch, cond
        As for `NoisedData`.
    """

    @abstractmethod
    def draw_copy(self, x: Tensor, level: float) -> Tensor:
        """Draw the copy given the data and the measured values."""

    @abstractmethod
    def matching_level(self, x: Tensor) -> float:
        """Return the level at which the noise of a copy has the variance of the measurement's noise, along the direction that is
        measured best, for data of the shape of `x`.
        """

    def move(self, x: Tensor, level: float) -> Tensor:
        """Draw a copy of the data, and data given the copy: a turn of the split Gibbs sampler."""
        return self.draw_data(self.draw_copy(x, level), level)


class CoupledCopy(CopiedData, WeighedData):
    """A score model's data, coupled with a measured copy of them by Gaussian noise, for linear measurements.

    With ``S = std² + level² A D² Aᵀ`` the data alone have the law ``p(x) N(y; A x, S)``. The two draws, one after the other,
    leave it unchanged, and as the level goes to 0 it becomes the posterior.

    Parameters
    ----------
    model, y, generator, steps, batch, cond
        As for `NoisedData`.
    measurement
        The measurement of the data, a linear map.

    Raises
    ------
    ValueError
        If too many numbers are measured.
    """

    measurement: LinearMeasurement
    _axes: tuple[Tensor, Tensor] | None = None

    def matching_level(self, x: Tensor) -> float:
        """Return ``std / √λ`` with the largest eigenvalue `λ` of ``A D² Aᵀ``."""
        values, _ = self._decomposed(x)
        return self.measurement.std / values[-1].sqrt().clamp_min(torch.finfo(torch.float64).tiny).item()

    def statistic(self, x: Tensor) -> Tensor:
        """Return ``y − A x`` along the eigenvectors of ``A D² Aᵀ``, ``(n, m)``, float64 on the CPU."""
        _, vectors = self._decomposed(x)
        return self._missed(x).flatten(1).cpu().double() @ vectors

    def log_likelihood(self, statistic: Tensor, level: float) -> Tensor:
        """Return ``log N(y; A x, S)`` of data with this statistic, ``(n,)``, up to a constant of all data and levels."""
        values, _ = self._decomposed(statistic)
        S = self.measurement.std**2 + level**2 * values
        return -0.5 * (statistic.square() / S).sum(1) - 0.5 * S.log().sum()

    def draw_copy(self, x: Tensor, level: float) -> Tensor:
        """Draw the copy given the data and the measured values exactly, and return it.

        A copy ``z' ~ N(x, level² D²)`` without the measurement is corrected by its misfit to a measurement with noise,
        ``z = z' + level² D² Aᵀ S⁻¹ (y + std n − A z')``. G. Papandreou, A. Yuille, *Gaussian sampling by local perturbations*,
        2010.
        """
        A, stretch = self.measurement, self.sde.units.stretch
        z = self.add_noise(x, level)
        missed = self._missed(z)
        missed = missed + A.std * noise_like(missed, self.generator)
        values, vectors = (v.to(missed) for v in self._decomposed(x))
        u = (missed.flatten(1) @ vectors / (A.std**2 + level**2 * values)) @ vectors.T
        return z + level**2 * stretch(stretch(A.transpose(u.reshape(missed.shape), x.shape[1:])))

    def _decomposed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return eigenvalues and eigenvectors of ``A D² Aᵀ``, float64, which the first call finds for data of the shape of
        `x`.
        """
        if self._axes is None:
            A, stretch = self.measurement, self.sde.units.stretch
            one = A.measure(x[:1].cpu().double())[0]
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


class AcceptedNoise(WeighedData):
    """Laws of a score model's data times powers of any likelihood, ``p(x) p(y | x)^β`` with ``β = 1 / (1 + level²)``.

    To noise and denoise data is a reversible move of ``p(x)``: a pair of data before and after is as likely in the opposite
    order. So Metropolis' rule accepts a move by the ratio of the likelihoods alone, and no density of the data is needed. The
    noise is adapted so that half of the moves are accepted.

    Parameters
    ----------
    model, measurement, y, generator, steps, batch, cond
        As for `NoisedData`.
    """

    next_noise: float | None = None  # the noise level of the next move

    @property
    def largest(self) -> float:
        """A level at which the likelihood has practically no weight."""
        return FLAT

    def statistic(self, x: Tensor) -> Tensor:
        """Return ``log p(y | x)``, ``(n, 1)``.

        Raises
        ------
        ValueError
            If it is NaN or plus infinity for one of the data, or the likelihood is 0 for all.
        """
        found = self.measurement.log_prob(check_measured(self.y, self.measurement.measure(x)), x).cpu().double()
        if not (found < torch.inf).all() or found.isneginf().all():
            raise ValueError(
                "the likelihood is NaN for some of the data, or zero for all; give a measurement of finite likelihood wherever "
                "the model draws data, or more particles."
            )
        return found[:, None]

    def log_likelihood(self, statistic: Tensor, level: float) -> Tensor:
        """Return ``β log p(y | x)``, ``(n,)``."""
        return statistic[:, 0] / (1 + level**2)

    def move(self, x: Tensor, level: float) -> Tensor:
        """Noise the data and denoise them, and return the new data where these are accepted, and else the old."""
        noise = FIRST * self.spread if self.next_noise is None else self.next_noise
        other = self.draw_data(self.add_noise(x, noise), noise)
        before, after = (self.log_likelihood(self.statistic(state), level) for state in (x, other))
        chance = (after - before).exp().clamp_max(1)
        accepted = torch.rand(len(x), dtype=torch.float64, generator=self.generator) < chance
        factor = math.exp(chance.mean().item() - ACCEPTED)
        self.next_noise = min(max(noise * factor**2, self.least), FIRST * self.spread)
        return torch.where(over_rows(accepted, x).to(x.device), other, x)


def _level(sde: ScalarSDE, t: float) -> float:
    """Return ``sigma / alpha`` at a time."""
    return sde.log_snr(t).neg().div(2).exp().item()


def _require_plain(model: ScoreModel) -> ScalarSDE:
    """Return the process of a model; refuse one whose states are not scaled data with noise of one level for all numbers."""
    why = "; a copy of the data with noise is no state of it: take PiGDM or DPS, which need none."
    sde = as_scalar(model.sde, why)
    if sde.coordinates is not None:
        raise TypeError(
            f"the process has data in other coordinates, {sde.coordinates!r}, and what is measured of the data is not linear "
            "there; model the data as they are."
        )
    return sde
