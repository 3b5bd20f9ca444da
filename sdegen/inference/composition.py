"""Posteriors of parameters given many observations, composed of the posteriors given each: `ComposedPosterior`."""

from __future__ import annotations

__all__ = ["ComposedScore", "ComposedPosterior"]

from typing import Any

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_count, check_tensor
from ..conditions import NONE, Conditions
from ..dense import with_all_digits
from ..laws import GaussianMixture, Moments, NormalRanks, Units
from ..laws.outside import as_law
from ..likelihood import log_prob
from ..models import Exact, ScoreModel
from ..processes.linear import LinearSDE, as_linear
from ..samplers import Sampler, sample
from ..samplers.noise import as_seed
from ..show import show_call
from .posterior import AmortisedPosterior

LEAST = 1e-6  # of the prior's precision: the smallest precision that an observation adds in any direction


class ComposedScore(ScoreModel):
    """A score model of parameters given several observations, composed of a score model that is given one observation.

    Given the state, clean data have the precision ``P_0 = C_0⁻¹ + snr`` under the prior, and ``P_j = C_j⁻¹ + snr`` under the
    posterior of observation `j`, if these are Gaussian of covariance `C`. The product of the posteriors over the prior to the
    power ``n − 1`` then has the denoiser ``Λ⁻¹ (Σ_j P_j D_j − (n − 1) P_0 D_0)`` with ``Λ = Σ_j P_j − (n − 1) P_0``. The
    predicted noise is averaged with the same weights. This is exact for Gaussian laws at all times, and for other laws as the
    noise goes to zero, where all precisions are alike. J. Linhart et al., *Diffusion posterior sampling for simulation-based
    inference in tall data settings*, 2024, arXiv:2404.07593.

    Parameters
    ----------
    model
        A score model of a linear process; its states are those of the composed model less the shift of the observation.
    name
        The name of the model's condition.
    x
        The observations, ``(n, *)``.
    shifts
        The vectors that are added to clean states of `model` for each observation, ``(n, d)``.
    prior
        Mean and covariance of the Gaussian prior, ``(d,)`` and ``(d, d)``.
    means, covariances
        Mean and covariance of the posterior given each observation, ``(n, d)`` and ``(n, d, d)``.
    """

    sde: LinearSDE

    def __init__(
        self,
        model: ScoreModel,
        name: str,
        x: Tensor,
        shifts: Tensor,
        prior: Moments,
        means: Tensor,
        covariances: Tensor,
    ) -> None:
        self.model, self.name, self.x, self.shifts = model, name, x, shifts.double()
        self.sde = as_linear(model.sde, ", and composition is of clean data.").in_units(Units())
        one = GaussianMixture(torch.ones(1), prior.mean[None], prior.covariance[None])
        self.prior = Exact(self.sde, one)
        P = self.prior_precision = prior.covariance.inverse()
        self.added = _clip_negative(covariances.inverse() - P, P)  # the precision that each observation adds, (n, d, d)
        total = P + self.added.sum(0)
        pulled = ((P + self.added) @ means[:, :, None]).sum(0)[:, 0] - (len(x) - 1) * P @ prior.mean
        covariance = total.inverse()
        self.moments = Moments(covariance @ pulled, 0.5 * (covariance + covariance.T))

    @property
    def like(self) -> Tensor | None:
        """A weight of the model inside."""
        return self.model.like

    @property
    def conditions(self) -> Conditions:
        """None: the observations are fixed."""
        return NONE

    def score(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
        """Return the score ``−R⁻ᵀ eps`` of the composed noise."""
        return self._marginal(t).score_from_noise(self.estimate(x, t)[1])

    def estimate(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return the composed clean state and noise."""
        number, t = len(self.x), with_all_digits(t)
        times = t.repeat_interleave(number) if t.ndim and len(t) > 1 else t
        shifts = self.shifts.to(x).repeat(len(x), 1)
        states = x.repeat_interleave(number, 0) - self.sde.marginal(times).Phi(shifts)
        given = self.x.repeat(len(x), *[1] * (self.x.ndim - 1))
        clean, noise = self.model.estimate(states, times, **{self.name: given})
        each = torch.stack([clean + shifts, noise], 2).unflatten(0, (len(x), number)).double()  # (B, n, d, 2)
        base = torch.stack(self.prior.estimate(x, t), 2).double()
        # All precisions C⁻¹ + snr times the square of the sine, so that they are finite where snr = cos² / sin² is not.
        cosine, sine = (v.reshape(-1, 1, 1) for v in self.sde.marginal(t).angle)
        one = torch.eye(len(self.prior_precision), dtype=torch.float64)
        P_0 = sine.square() * self.prior_precision + cosine.square() * one  # (B, d, d)
        added = sine.square()[..., None] * self.added  # (B, n, d, d)
        pulled = ((P_0[:, None] + added) @ each).sum(1) - (number - 1) * P_0 @ base
        found = torch.linalg.solve(P_0 + added.sum(1), pulled).to(x)
        return found[..., 0], found[..., 1]


def _clip_negative(added: Tensor, prior_precision: Tensor) -> Tensor:
    """Return added precisions whose eigenvalues relative to the prior's precision are at least a small positive number.

    They are raised to it since no observation takes information away from the prior.
    """
    root = torch.linalg.cholesky(prior_precision)
    white = torch.linalg.solve_triangular(root, added, upper=False)
    white = torch.linalg.solve_triangular(root, white.mT, upper=False)
    values, vectors = torch.linalg.eigh(0.5 * (white + white.mT))
    half = root @ vectors * values.clamp_min(LEAST).sqrt()[:, None]
    return half @ half.mT


class ComposedPosterior:
    """The posterior of parameters given any number of observations, composed of a posterior that was trained on single ones.

    The observations are independent of each other given the parameters.

    Parameters
    ----------
    posterior
        The posterior given a single observation. Its prior must be Gaussian, or of independent numbers whose distribution
        function is known, such as uniform ones.
    draws
        The number of draws of the posterior given each observation, on which its covariance is measured.
    sampler
        The sampler of the composed model; by default the default sampler. ``ExponentialSDE(100)`` suits a model that is far from
        Gaussian.

    Raises
    ------
    TypeError
        If the prior is of another kind.
    ValueError
        If `draws` is not a whole number of at least 2.

    Examples
    --------
    >>> from sdegen import guidance, measurements
    >>> from sdegen.processes import VP
    >>> prior, seen = torch.distributions.Normal(torch.zeros(2), torch.ones(2)), measurements.Linear(torch.eye(2), 1.0)
    >>> single = AmortisedPosterior(guidance.PiGDM(Exact(VP(), prior), seen), prior)
    >>> theta = ComposedPosterior(single).sample(1000, torch.ones(9, 2), seed=0)
    >>> theta.mean(0).sub(0.9).abs().max().item() < 0.05  # nine observations of 1, and a prior around 0
    True
    """

    __repr__ = show_call

    @check_arguments
    def __init__(self, posterior: AmortisedPosterior, draws: int = 1000, sampler: Sampler | None = None) -> None:
        self.posterior, self.draws, self.sampler = posterior, check_count("draws", draws, at_least=2), sampler
        self.prior = _gaussian_prior(posterior)

    @check_arguments
    def sample(self, n: int, x: Tensor, *, steps: int | None = None, seed: int | None = None) -> Tensor:
        """Draw `n` parameters given observations ``(number, *)``, and return them, ``(n, d)``.

        `seed` is that of `compose`; the seed of the run is drawn from it.

        Raises
        ------
        ValueError
            If `n` is not a whole number of at least 1, `x` has no row for each observation, or holds NaN or infinite values.
        """
        model = self.compose(x, seed)
        run = as_seed(seed, None)  # another seed than that of `compose`, or samples would repeat the noise of its draws
        return self._parameters(sample(model, n, steps=steps, sampler=self.sampler, seed=run, progress=False))

    @check_arguments
    def log_prob(self, theta: Tensor, x: Tensor, *, seed: int | None = None) -> Tensor:
        """Return the log-density in nats of parameters ``(n, d)`` given observations ``(number, *)``, ``(n,)``.

        Raises
        ------
        TypeError
            If parameters or observations are not tensors of floating-point numbers.
        ValueError
            If the shapes do not fit, or parameters lie outside of the prior's support.
        """
        check_tensor("theta", theta, shape=(None, len(self.prior.mean)))
        if not len(theta):
            raise ValueError("theta has no rows; give one vector of parameters at least.")
        phi, model = self.posterior.coordinates, self.compose(x, seed)
        u = theta if phi is None else phi(phi.check(theta, "theta"))
        volume = 0.0 if phi is None else phi.log_det(theta)
        w = torch.linalg.solve_triangular(self._root, u.double().T, upper=False).T
        own = log_prob(model, model.cast_states(w)).double() - self._root.diagonal().log().sum()
        return (own + volume).to(theta)

    def compose(self, x: Tensor, seed: int | None = None) -> ComposedScore:
        """Return the score model of the parameters given observations.

        Its states are the parameters in coordinates without bounds, in units of the errors of the posterior's linear guess.

        Parameters
        ----------
        x
            The observations, ``(number, *)``.
        seed
            The seed of the draws on which covariances are measured.
        """
        single, x = self.posterior, self.posterior.check_rows(x)
        r = single.draw_states(self.draws, x, seed=seed)
        units = single.model.sde.units
        states = units.standardise(r.double()).unflatten(0, (len(x), self.draws))
        origin = torch.zeros(len(x), r.shape[1], dtype=torch.float64)
        shifts = -units.standardise(origin if single.guess is None else single.guess.miss(origin, x))
        centred = states - states.mean(1, keepdim=True)
        covariances = centred.mT @ centred / (self.draws - 1)
        mean = torch.linalg.solve_triangular(self._root, self.prior.mean[:, None], upper=False)[:, 0]
        white = torch.linalg.solve_triangular(self._root, torch.linalg.cholesky(self.prior.covariance), upper=False)
        prior = Moments(mean, white @ white.T)
        return ComposedScore(single.model, single.name, x, shifts, prior, states.mean(1) + shifts, covariances)

    @property
    def _root(self) -> Tensor:
        """The matrix that takes states of the composed model to parameters in coordinates without bounds."""
        guess, d = self.posterior.guess, len(self.prior.mean)
        L = torch.eye(d, dtype=torch.float64) if guess is None else guess.L
        return L * self.posterior.model.sde.units.std.expand(d)

    def _parameters(self, w: Tensor) -> Tensor:
        """Return the parameters of states of the composed model."""
        u = (w.double() @ self._root.T).to(w)
        return u if self.posterior.coordinates is None else self.posterior.coordinates.inverse(u)


def _gaussian_prior(posterior: AmortisedPosterior) -> Moments:
    """Return mean and covariance of the prior in the posterior's coordinates; refuse one that is not Gaussian there."""
    law = as_law(posterior.prior)
    if isinstance(posterior.coordinates, NormalRanks):
        d = law.event_shape[0]
        return Moments(torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64))
    if posterior.coordinates is not None or not isinstance(law, GaussianMixture) or len(law.weights) > 1:
        raise TypeError(
            f"the prior {posterior.prior!r} is not Gaussian in coordinates without bounds; compose under a Gaussian one, or one "
            "of independent numbers whose laws know their distribution function, such as Uniform."
        )
    mean, covariance = law.moments()
    return Moments(mean.double(), torch.diag(covariance).double() if covariance.ndim == 1 else covariance.double())
