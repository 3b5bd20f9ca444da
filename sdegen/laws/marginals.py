"""The law of noised states at given times: `Marginal`, computed once per training step and shared by loss, weighting and
model.

A state drawn from it is a `Perturbed` one; what a state tells about its datum is an `Observation` (`embedding`). Of a process
that is not linear only a `Level` is known.
"""

from __future__ import annotations

__all__ = ["LEAST_SIGNAL", "Level", "Marginal", "Perturbed"]

import math
from functools import cached_property
from typing import NamedTuple

from torch import Tensor

from ..show import show_call
from .diagonal import cosine_and_sine
from .embedding import WHOLE, Embedding, Observation, Reduction
from .kernels import StateLaw, Transition
from .operators import Operator

LEAST_SIGNAL = 1e-8  # alpha / sigma below which the signal is lost in the rounding of a float32 state


class Level:
    """The noise level of states at given times: a root of the covariance of their noise.

    A linear process knows more, the whole law of its states given the data: `Marginal`.

    Parameters
    ----------
    t
        Times, float64, ``()`` or ``(B,)``.
    R
        A root of the covariance that noise alone has at `t`.
    G
        The diffusion at `t`, of a process that is not linear.
    """

    __repr__ = show_call

    def __init__(self, t: Tensor, R: Operator, G: Operator | None = None) -> None:
        self.t, self.R, self.G = t, R, G

    @property
    def log_snr(self) -> Tensor:
        """The logarithm of the signal-to-noise ratio, which linear processes have.

        Raises
        ------
        TypeError
            If the process is not linear.
        """
        raise TypeError(
            "the process is not linear and has no signal-to-noise ratio; take a weighting that needs none, such as "
            "InverseVarianceWeighting()."
        )

    @property
    def snr(self) -> Tensor:
        """The signal-to-noise ratio, which linear processes have."""
        return self.log_snr.exp()

    @property
    def weighable_log_snr(self) -> Tensor:
        """`log_snr`, at least that of a trace of signal, for weights that are infinite without any: the trace that
        `Marginal.velocity_to_score` leaves.
        """
        return self.log_snr.clamp_min(2 * math.log(LEAST_SIGNAL))


class Marginal(Transition, Level):
    """The law of noised states at given times, ``x_t | x_0 ~ N(Phi x_0, R Rᵀ)``, with the times it belongs to.

    A loss perturbs by it, weighs by it and asks the model by it, so that a training step forms it once.

    Parameters
    ----------
    Phi, R
        As for every `Transition`, of one time or of a row of times.
    t
        The times, float64, ``()`` or ``(B,)``.
    embedding
        How data become states; by default the data are the states.
    clock
        The logarithm of the signal-to-noise ratio that the process declares, of the shape of `t`; None for the one that follows
        from what its states tell of the data.
    """

    def __init__(
        self, Phi: Operator, R: Operator, t: Tensor, embedding: Embedding = WHOLE, clock: Tensor | None = None
    ) -> None:
        self.Phi, self.R, self.t, self.embedding, self.clock, self.G = Phi, R, t, embedding, clock, None

    @cached_property
    def _reduction(self) -> Reduction:
        return self.embedding.reduce(self)

    @cached_property
    def angle(self) -> tuple[Tensor, Tensor]:
        """The cosine and the sine of the angle whose ratio squared is `snr`, float64, ``()`` or ``(B,)``."""
        if self.clock is not None:
            return cosine_and_sine(self.clock)
        c, s = self._reduction.C.angle(self._reduction.S)
        return c.reshape(self.t.shape), s.reshape(self.t.shape)

    @cached_property
    def snr(self) -> Tensor:
        """The signal-to-noise ratio, ``alpha² / sigma²`` for numbers: that of one number which would tell as much of a datum of
        unit variance as the state does for each of its own.
        """
        return self.log_snr.exp()

    @cached_property
    def log_snr(self) -> Tensor:
        """The logarithm of `snr`, finite also where the ratio over- or underflows; −inf where no signal is left."""
        if self.clock is not None:
            return self.clock
        return self._reduction.C.log_snr(self._reduction.S).reshape(self.t.shape)

    @property
    def velocity_to_score(self) -> Operator:
        """``R⁻ᵀ Bᵀ``, from an error of the velocity to that of the score it makes.

        Without signal the velocity says nothing of the score. There a trace of signal is left, so that a weight of the score
        that grows without bound has its limit.
        """
        return self._AB[1].over(self.R, LEAST_SIGNAL)

    def observe(self, x: Tensor) -> Observation:
        """Reduce a state to its sufficient statistic for the datum.

        A state ``x = Phi E x_0 + R z``, with `E` the embedding of data, tells of ``x_0`` by as many numbers as the datum has,
        ``y = Eᵀ Phiᵀ Sigma⁻¹ x`` up to scale. Normalised, ``y = C x_0 + S zeta`` with ``C Cᵀ + S Sᵀ = 1``: whatever the process,
        denoising is the same problem in `y`. For numbers ``y = x / r``, and `C`, `S` are the cosine and sine of the angle.

        Parameters
        ----------
        x
            States, ``(B, *)``; ``(B, k, *)`` for more than one channel.

        Raises
        ------
        ValueError
            If the states do not have `k` channels, or there are neither as many laws as states nor one for all.
        """
        return Observation(self._reduction.W(x), self._reduction)


class Perturbed(NamedTuple):
    """A noised state, with the kernel and the noise it was drawn from.

    Attributes
    ----------
    x
        The state, ``(B, *)``.
    kernel
        The law it was drawn from.
    z
        The noise it was drawn with.
    at
        Its times, and what the process says of them: for linear processes the law of the state given the data.
    data
        What it was made from, in the coordinates and units of the process, ``(B, *)``.
    """

    x: Tensor
    kernel: StateLaw
    z: Tensor
    at: Level
    data: Tensor

    def __repr__(self) -> str:
        return show_call(self)

    def mirrored(self) -> Perturbed:
        """Return the state drawn with the opposite noise, ``−z``."""
        return self._replace(x=self.kernel.sample(-self.z), z=-self.z)
