"""Score-matching losses with one value per datum: denoising, implicit (Hyvärinen), sliced, and variational with learned
variance.

Each is an object called as ``loss(model, x_0, generator=None, **cond)``, for `fit` or for the user's own training loop. The DDPM
loss, the mean squared error of the noise, is `Denoising` with `weightings.InverseVarianceWeighting`: the default of `fit`. As
published, at uniform steps and without pooled targets, it is ``Denoising(times=weightings.DiscreteTimes(1000), pooled=False)``.
No loss here depends on which SDE the model has.
"""

from __future__ import annotations

__all__ = ["Denoising", "Hybrid", "Implicit", "InputPerturbation", "Variational"]

from typing import Any

import torch
from torch import Tensor

from ..answers import ask_log_prob, ask_score
from ..arguments import check_arguments
from ..checks import check_count, check_number
from ..data import Scaling
from ..laws.derivatives import Divergence, ExactDivergence
from ..laws.draws import noise_like
from ..laws.empirical import pooled
from ..laws.kernels import as_gaussian
from ..laws.marginals import Marginal, Perturbed
from ..laws.operators import Operator, rows
from ..laws.vectors import sum_rows
from ..likelihood.chain import last_log_mass, last_log_prob, step_divergence
from ..models.score import ScoreModel, VelocityModel
from ..precision import widened
from ..processes.base import SDE
from ..processes.linear import is_linear
from ..processes.times import ImportanceTimes, StratifiedTimes, TimeLaw
from .finite import finite
from .score_loss import ScoreLoss
from .targets import pooled_target
from .weightings import InverseVarianceWeighting, Weighting, weight_at


class Denoising(ScoreLoss):
    """Denoising score matching: ``E_t E ‖W (s(x_t, t) − ∇ log p(x_t | x_0))‖²``.

    P. Vincent, *A connection between score matching and denoising autoencoders*, 2011; J. Ho et al., 2020,
    arXiv:2006.11239.

    Parameters
    ----------
    weighting
        The weight lambda of the squared score error; the noise loss by default.
    times
        The law of `t`; by default uniform in the log-noise level with its factor, which estimates the loss of uniform
        times with less variance.
    pooled
        Whether to replace the target by its mean given the noised state and the *whole batch* of data (Rao–Blackwell). It has the
        same expectation, and so the same minimiser, and less variance, at the price of all pairwise distances in the batch. The
        idea is that of Y. Xu, S. Tong, T. Jaakkola, *Stable target field for reduced variance score estimation in diffusion
        models*, 2023, arXiv:2302.00670, but with the batch as its own reference, which makes it exact. It is not used with
        conditions, whose pairing with the data it would undo. For nonlinear processes see `targets.pooled_target`.
    antithetic
        Whether to noise every datum twice, with z and −z, and take the mean, by two network evaluations a datum. At small noise
        the target ``−R⁻ᵀ z`` has variance ``1 / sigma²``, which a pair cancels to order one (J. Hammersley and K. Morton, *A new
        Monte Carlo technique: antithetic variates*, 1956). This is worth its price if the weighting puts much weight there.
    """

    @check_arguments
    def __init__(
        self,
        weighting: Weighting | None = None,
        times: TimeLaw | None = None,
        pooled: bool = True,
        antithetic: bool = False,
    ) -> None:
        self.weighting = InverseVarianceWeighting() if weighting is None else weighting
        self.times = ImportanceTimes() if times is None else times
        self.pooled, self.antithetic = pooled, antithetic

    def __call__(
        self, model: ScoreModel, x_0: Tensor, /, generator: torch.Generator | None = None, **cond: Any
    ) -> Tensor:
        """Return the loss of each datum, ``(B,)``, in float32 at least."""
        x_0 = widened(x_0)
        t, factor = self.times.draw(model.sde, len(x_0), generator)
        perturbed = _noised(model.sde, x_0, t, generator)
        draws = [perturbed, _mirrored(model.sde, perturbed)] if self.antithetic else [perturbed]
        total = x_0.new_zeros(len(x_0))
        for draw in draws:
            error = self.error(model, draw, weight_at(self.weighting, model.sde, draw.at), generator, **cond)
            total = total + error.square().reshape(len(x_0), -1).sum(1)  # `sum_rows`, without its calls in every step
        return finite(total * (factor / len(draws)).to(total, non_blocking=True), t)

    def error(
        self,
        model: ScoreModel,
        perturbed: Perturbed,
        W: Operator,
        generator: torch.Generator | None = None,
        /,
        **cond: Any,
    ) -> Tensor:
        """Return the weighted error of the score, ``W (score − target)``, at the noised states, of their shape.

        A pooled target is the score of the exact model of the batch's empirical law. For a model that predicts the velocity the
        error follows from that of the velocity, so nothing is divided by a vanishing noise.
        """
        pool = self.pooled and not cond
        x, kernel, z, at, data = perturbed
        if not isinstance(at, Marginal):
            target = pooled_target(model.sde, perturbed) if pool else kernel.score(x)
            return W(ask_score(model, x, at.t, **cond) - target)
        if pool:
            seen = at.observe(x)
            data, of_y = pooled(data, seen.y, seen.by.C, seen.by.S)
            z = seen.by.noise(x, of_y, at.R)
        if isinstance(model, VelocityModel):
            error = model.velocity_at(x, at, **cond) - at.velocity(model.sde.embed(data), z)
            return (W @ at.velocity_to_score)(error)
        return W(ask_score(model, x, at.t, **cond) - at.score_from_noise(z))


class InputPerturbation(Denoising):
    """Denoising score matching with additional input noise: ``x_t = Phi x_0 + R (z + gamma xi)``, while the target stays `z`.

    In training a network sees true states, in sampling its own states; the extra noise `xi` stands for their errors. M. Ning, E.
    Sangineto, A. Porrello, S. Calderara, R. Cucchiara, *Input perturbation reduces exposure bias in diffusion models*, 2023,
    arXiv:2301.11706. The minimiser is no longer the score but ``E[z | x_t]`` under the perturbed law; for Gaussian data of mean
    `m` and covariance P this is ``Rᵀ (Phi P Phiᵀ + (1 + gamma²) R Rᵀ)⁻¹ (x_t − Phi m)``. The target is never pooled.

    Parameters
    ----------
    gamma
        Size of the extra noise, 0.1 in the paper; 0 is `Denoising`.
    weighting, times, antithetic
        As for `Denoising`.

    Raises
    ------
    ValueError
        If `gamma` is negative or not finite.
    """

    @check_arguments
    def __init__(
        self,
        gamma: float = 0.1,
        weighting: Weighting | None = None,
        times: TimeLaw | None = None,
        antithetic: bool = False,
    ) -> None:
        check_number("gamma", gamma, at_least=0, hint=", the size of the extra noise")
        super().__init__(weighting, times, pooled=False, antithetic=antithetic)
        self.gamma = gamma

    def error(
        self,
        model: ScoreModel,
        perturbed: Perturbed,
        W: Operator,
        generator: torch.Generator | None = None,
        /,
        **cond: Any,
    ) -> Tensor:
        """Return the weighted error of the score in terms of the noise, ``W R⁻ᵀ (z − eps)``, of the shape of the states."""
        R, t = as_gaussian(perturbed.kernel, ": there is no noise to add to; take Denoising().").R, perturbed.at.t
        x = perturbed.x + self.gamma * R(noise_like(perturbed.z, generator))
        if not is_linear(model.sde):
            # Noise may depend on the state; the weight is that of the perturbed state.
            W = weight_at(self.weighting, model.sde, model.sde.at(t, x))
            return W(ask_score(model, x, t, **cond) + R.inv().T(perturbed.z))
        return (W @ R.inv().T)(perturbed.z - model.noise(x, t, **cond))


class Implicit(ScoreLoss):
    """Implicit score matching: ``E_t E [½ ‖W s‖² + div(Wᵀ W s)]``, which needs noised states but not their transition density.

    It is equal to half the explicit loss up to a constant of the data. A. Hyvärinen, *Estimation of non-normalized statistical
    models by score matching*, 2005; with a Hutchinson divergence it is sliced score matching: Y. Song et al., 2019,
    arXiv:1905.07088. If noise depends on the state, so does its weight, whose slope is part of the divergence. Linear processes
    take only scalar weights, ``lambda (½ ‖s‖² + div s)``.

    Parameters
    ----------
    weighting
        The weight lambda of the squared score error; by default the variance of the noise.
    times
        The law of `t`.
    divergence
        ``derivatives.ExactDivergence()`` (the default), or ``derivatives.Hutchinson()`` for the sliced loss.

    Raises
    ------
    ValueError
        At a call, if the weight is a matrix on a linear process, as it is on every matrix process.
    """

    @check_arguments
    def __init__(
        self,
        weighting: Weighting | None = None,
        times: TimeLaw | None = None,
        divergence: Divergence | None = None,
    ) -> None:
        self.weighting = InverseVarianceWeighting() if weighting is None else weighting
        self.times = ImportanceTimes() if times is None else times
        self.divergence = ExactDivergence() if divergence is None else divergence

    def __call__(
        self, model: ScoreModel, x_0: Tensor, /, generator: torch.Generator | None = None, **cond: Any
    ) -> Tensor:
        """Return the loss of each datum, ``(B,)``; its minimum is minus half the Fisher information, not zero."""
        x_0 = widened(x_0)
        t, factor = self.times.draw(model.sde, len(x_0), generator)
        perturbed = _noised(model.sde, x_0, t, generator)
        x, at = perturbed.x, perturbed.at
        weight = weight_at(self.weighting, model.sde, at)
        if not isinstance(at, Marginal):  # noise may depend on the state, and the weight with it

            def weighted(y: Tensor) -> Tensor:
                W = weight_at(self.weighting, model.sde, model.sde.at(t, y))
                return W.T(W(ask_score(model, y, t, **cond)))

            field, divergence = self.divergence(weighted, x, generator=generator)
            values = 0.5 * sum_rows(weight.T.inv()(field).square()) + divergence
            return finite(values * rows(factor, values), t)
        W = weight.matrix()
        if W.shape[-1] != 1:
            raise ValueError(
                f"{type(self.weighting).__name__} weights directions on this process; implicit score matching needs a "
                "scalar weighting such as UniformWeighting() on a scalar process."
            )
        score, divergence = self.divergence(lambda y: ask_score(model, y, t, **cond), x, generator=generator)
        values = 0.5 * sum_rows(score.square()) + divergence
        return finite(values * rows(W[..., 0, 0].square() * factor, values), t)


class Hybrid(ScoreLoss):
    """The loss of learned-variance DDPM: denoising for the mean plus the variational bound for the variance.

    ``L = L_denoising + weight · N E_k KL(q(x_{k−1} | x_k, x_0) ‖ p(x_{k−1} | x_k))``, in nats per coordinate, the mean held
    fixed in the second term. A. Nichol and P. Dhariwal, 2021, arXiv:2102.09672.

    Parameters
    ----------
    denoising
        The loss of the mean.
    steps
        N, the number of steps of the discrete chain whose variances are learned.
    weight
        Weight of the variational term.

    Raises
    ------
    ValueError
        If `steps` is not a whole number, or below 2.
    """

    @check_arguments
    def __init__(self, denoising: Denoising | None = None, steps: int = 100, weight: float = 1e-3) -> None:
        check_count("steps", steps, 2, ": a chain with learned variances"), check_number("weight", weight, at_least=0)
        self.denoising = Denoising() if denoising is None else denoising
        self.steps, self.weight = steps, weight

    def __call__(
        self, model: ScoreModel, x_0: Tensor, /, generator: torch.Generator | None = None, **cond: Any
    ) -> Tensor:
        """Return the loss of each datum, ``(B,)``."""
        sde, x_0 = model.sde, widened(x_0)
        t, _ = self.denoising.times.draw(sde, len(x_0), generator)
        h = (sde.T - sde.t_min) / self.steps
        s = (t - h).clamp_min(sde.t_min)  # the last step of the chain may be shorter
        perturbed = _noised(sde, x_0, t, generator)
        bound = step_divergence(model, x_0, s, t, perturbed, **cond)
        return self.denoising(model, x_0, generator=generator, **cond) + self.weight * self.steps * finite(bound, t)


class Variational(ScoreLoss):
    """The variational loss, the negative evidence lower bound of a chain of N steps in nats, for learned variances and
    learned processes.

    ``KL(q(x_N | x) ‖ prior) + Σ_k KL(q(x_{k−1} | x_k, x) ‖ p(x_{k−1} | x_k)) − log p(x | x_1)``, the terms of
    `sdegen.discrete_elbo`, at times equally spaced in `t`. One term of the sum is drawn for each datum. If the process has
    parameters (`LearnedSchedule`, `LearnedSDE`), all three parts depend on them. D. Kingma et al., 2021, arXiv:2107.00630.

    Parameters
    ----------
    steps
        N; as it grows the bound approaches that of the process, at the rate 1/N.
    cells
        The scaling of the data if they are bytes; the bound is then on their probability, as that of `discrete_bits_per_dim`. By
        default it is on a density, which bytes do not have: a learned schedule would raise it without end.

    Raises
    ------
    ValueError
        If `steps` is below 2.
    """

    @check_arguments
    def __init__(self, steps: int = 1000, cells: Scaling | None = None) -> None:
        check_count("steps", steps, 2, ": a chain of states")
        self.steps, self.cells = steps, cells

    def __call__(
        self, model: ScoreModel, x_0: Tensor, /, generator: torch.Generator | None = None, **cond: Any
    ) -> Tensor:
        """Return the loss of each datum, ``(B,)``, in nats."""
        sde, x_0 = model.sde, widened(x_0)
        prior = sde.prior(model.state_moments())
        h = (sde.T - sde.t_min) / (self.steps - 1)
        u, _ = StratifiedTimes().sample(sde, len(x_0), generator)
        k = ((u - sde.t_min) / h).floor().clamp(0, self.steps - 2)
        s, t = sde.t_min + k * h, sde.t_min + (k + 1) * h
        ends = torch.tensor([sde.t_min, sde.T], dtype=torch.float64)
        first, at, last = (sde.perturb(x_0, v, generator=generator) for v in (ends[0], t, ends[1]))
        values = last.kernel.log_prob(last.x) - ask_log_prob(prior, last.x)
        values = values + step_divergence(model, x_0, s, t, at, **cond) * x_0[0].numel() * (self.steps - 1)
        if self.cells is None:
            values = values - last_log_prob(model, x_0, ends[0], first, **cond)
        else:
            values = values - last_log_mass(model, x_0, ends[0], first, self.cells, **cond)
        return finite(values, t)


def _mirrored(sde: SDE, perturbed: Perturbed) -> Perturbed:
    """Return the states drawn with the opposite noise, with their own noise level if that depends on the state."""
    other = perturbed.mirrored()
    return other if isinstance(other.at, Marginal) else other._replace(at=sde.at(other.at.t, other.x))


def _noised(sde: SDE, x_0: Tensor, t: Tensor, generator: torch.Generator | None) -> Perturbed:
    """Return noised data; refuse a process with parameters to learn, since the weighted error of a score cannot train them."""
    perturbed = sde.perturb(x_0, t, generator=generator)
    if perturbed.x.requires_grad and not x_0.requires_grad:
        raise ValueError(
            f"{type(sde).__name__} has parameters, and score matching cannot train a process. Take losses.Variational, whose "
            "bound they are part of, or hold them: model.sde.requires_grad_(False)."
        )
    return perturbed
