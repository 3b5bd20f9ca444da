"""A sampler of the reversed SDE whose noise is as wide as the law of the data near each sample: `SecantSDE`."""

from __future__ import annotations

__all__ = ["SecantMemory", "SecantSDE", "SecantStep", "secant_variances"]

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_number
from ..laws.vectors import as_vectors
from ..models.score import ScoreModel
from ..processes.grids import Grid
from ..processes.scalar import as_scalar
from .base import Noise, Sampler
from .clocks import angle
from .directions import Scalar
from .references import Matched

# Rounds of Newton's method. The first is exact if all variances are equal; if they fall like 1 / k³ over a thousand directions,
# six find the smallest to a fiftieth.
ROUNDS = 6
FAINTEST = 1e-9  # of the variances of the data: no mode counts as narrower


class SecantStep(NamedTuple):
    """Coefficients of a step: variances of the data, the question to the model, the angles and roots ``r = √(alpha² + sigma²)``
    at both ends, and half the ratio of its length, in angle, to that of the step before (0 in the first step).
    """

    pieces: Scalar
    C: Tensor
    question: Any
    angles: Tensor
    roots: Tensor
    ahead: Tensor


class SecantMemory(NamedTuple):
    """The evaluation of the step before: the posterior mean of the data, and the score of ``x / alpha``."""

    clean: Tensor
    pull: Tensor


class SecantSDE(Sampler[SecantStep, SecantMemory]):
    """A sampler of the reversed SDE whose steps are exact for a Gaussian fitted to the data near each sample: one evaluation a
    step.

    Near a sample, let the data be a Gaussian of covariance `W`. Its mean is ``E[x_0 | x] + W s`` at every noise level, with the
    score `s` of ``y = x / alpha``. So `W` follows from two evaluations, as the secant of the posterior mean. It is sought among
    the covariances that a measurement of precision `p` in all directions leaves of `C`, that of the data,

        W = (C⁻¹ + p)⁻¹,    p ≥ 0 with ⟨ΔE[x_0 | x] + W Δs, Δs⟩ = 0,

    and is `C` if no `p` is positive, and in the first step. Around this Gaussian the reversed process at the noise level `eta` is
    solved in law, with ``S = W + sigma² / alpha²``. The mean `m` is extrapolated over half of a step, from the means by the last
    two evaluations:

        y_s = m + (S_s / S_t)^((1 + eta²) / 2) (y_t − m) + √(S_s (1 − (S_s / S_t)^(eta²))) z.

    On Gaussian data every step is exact in law. So is a step in a mode far from others whose covariance is such a `W`, if the
    evaluation before was in this mode too; and a mode that is narrow compared with the data, and equally wide in all directions,
    nearly has such a covariance. At ``eta = 1`` the mean of a step depends on `W` by the extrapolation alone, and is otherwise
    that of `Ancestral`. F. Bao et al., *Analytic-DPM: an analytic estimate of the optimal reverse variance in diffusion
    probabilistic models*, 2022, arXiv:2201.06503, have the mean of this variance over all states. S. Rissanen et al., *Free
    Hunch: denoiser covariance estimation for diffusion models without extra costs*, 2024, arXiv:2410.11149, guide by covariances
    from the evaluations of a run.

    The width of a step depends on the state and on the step before, so its density is not known (that of `ExponentialSDE` is).

    Parameters
    ----------
    steps, grid
        As for every `Sampler`.
    eta
        Noise level of the reversed SDE: 1 its own.

    Raises
    ------
    ValueError
        If `eta` is not positive; in a run, if the model does not know its data's moments.
    TypeError
        In a run, if the process is not scalar.
    """

    @check_arguments
    def __init__(self, steps: int = 20, grid: Grid | None = None, eta: float = 1.0) -> None:
        super().__init__(steps, grid)
        self.eta = check_number("eta", eta, above=0.0)

    def plan(self, model: ScoreModel, times: Tensor) -> list[SecantStep]:
        """Plan the questions of all steps, and the noise levels between which they go."""
        sde = as_scalar(model.sde, "; the width of a step is measured in one noise level.")
        pieces = Scalar(sde, model, Matched().law(model), angle)
        phi, roots = pieces.phi(times), sde.marginal(times).r.matrix()[..., 0, 0]
        lengths = phi.diff()
        ahead = torch.cat([0 * lengths[:1], 0.5 * lengths[1:] / lengths[:-1]])
        questions = model.ask(times[:-1], velocity=sde.marginal(times[:-1]).Phi.one())
        (C,) = pieces.unbind(pieces.c[None])
        return [SecantStep(pieces, C, q, phi[k : k + 2], roots[k : k + 2], ahead[k]) for k, q in enumerate(questions)]

    def step(
        self, model: ScoreModel, x: Tensor, c: SecantStep, noise: Noise, state: SecantMemory | None
    ) -> tuple[Tensor, SecantMemory]:
        """Evaluate the model once, find the Gaussian near each sample, and take the step that is exact for it."""
        (start, end), (cos, cos_s), (sin, sin_s) = c.angles, c.angles.cos(), c.angles.sin()
        u, v = c.pieces.enter(x) / c.roots[0], c.pieces.enter(model.answer(x, c.question))
        seen = SecantMemory(cos * u - sin * v, -(cos / sin) * (sin * u + cos * v))
        C = c.C.to(x)
        W = C if state is None else secant_variances(C, seen.clean - state.clean, seen.pull - state.pull)
        mean = seen.clean + W * seen.pull
        if state is not None:
            mean = mean + c.ahead * (mean - state.clean - W * state.pull)
        P, P_s = W * cos**2 + sin**2, W * cos_s**2 + sin_s**2
        # log(S_t / S_s) from the difference S_t − S_s: where data are wide compared with the noise, S_t / S_s rounds to 1.
        fall = ((start - end).sin() * (start + end).sin() / (cos**2 * P_s)).log1p()
        carry = (P_s / P).sqrt() * (-0.5 * self.eta**2 * fall).exp()
        root = (P_s * -torch.expm1(-(self.eta**2) * fall)).sqrt()
        out = carry * u + (cos_s - carry * cos) * mean + root * c.pieces.enter(noise(x))
        return c.pieces.leave(c.roots[1] * out, x), seen


def secant_variances(C: Tensor, clean: Tensor, pull: Tensor) -> Tensor:
    """Return the variances ``W = (1 / C + p)⁻¹``, ``p ≥ 0``, of a Gaussian for each row, whose mean both evaluations agree on.

    They agree along the difference of their scores, ``⟨clean + W pull, pull⟩ = 0``. The reciprocal of ``⟨W pull, pull⟩`` is a
    concave function of `p`, so Newton's method approaches the solution from ``p = 0``; it stays at 0 if not even `C` is wide
    enough.

    Parameters
    ----------
    C
        Variances of the data in each direction, ``(*)``.
    clean, pull
        The differences of the posterior mean and of the score of ``x / alpha`` between two evaluations, ``(B, *)``.

    Returns
    -------
    Tensor
        ``(B, *)``.
    """
    shape, C, clean, pull = pull.shape, C.flatten(), as_vectors(clean), as_vectors(pull)
    squares = pull.square()
    most = (squares * C).sum(1)
    # Where nothing is learned the quotients below are of zeros, and their derivatives would be NaN.
    none = (most == 0).to(most)
    seen = (-clean * pull).sum(1).maximum(FAINTEST * most) + none
    W, p = C, torch.zeros_like(most)
    for _ in range(ROUNDS):
        told, slope = (squares * W).sum(1), (squares * W.square()).sum(1) + none
        p = (p + told * (told / seen - 1) / slope).clamp_min(0.0)
        W = C / (1 + p[:, None] * C)
    return W.reshape(shape)
