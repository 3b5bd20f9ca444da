"""Weighted particles, the result of sequential Monte Carlo, and what its methods share: resampling, and the steps of a chain.

`twisted_smc` weighs the steps of a model given a measurement, `tilted_smc` those of the model itself by a reward, `corrected` and
`anneal_product` those of a product of laws. `annealed_smc` weighs data, between one denoising and the next, and `anneal_density`
does without a model. `importance_sample` resamples nothing: it weighs whole paths.
"""

from __future__ import annotations

__all__ = [
    "ChainStep",
    "Particles",
    "check_particles",
    "chain_times",
    "draw_indices",
    "effective_size",
    "log_mean_exp",
    "refuse_early_end",
    "refuse_rows",
    "resample",
    "void_error_if_few",
]

import math
from collections.abc import Iterable
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..checks import check_count, check_kind, check_number, check_tensor
from ..laws.draws import check_draws, resample_systematically
from ..laws.kernels import posterior
from ..models.score import ScoreModel
from ..processes.grids import Angle, Grid
from ..processes.linear import LinearSDE
from ..show import show_call
from ..warning import warn_caller

FEW = 20.0  # first particles with descendants, of fewer of which a run is not to be believed
FEW_OF = 0.1  # of all particles, where that is fewer
SKEWED = 1.5  # errors by which an error grows with a skewness of one: twice Johnson's, as samples show half of it
LEFT = 1e-3  # of the variance of data: what the noise may have at the last time of a chain that ends in predicted means


class Particles(NamedTuple):
    """Weighted samples of data: the result of `twisted_smc`, `tilted_smc`, `annealed_smc`, `corrected`, `anneal_product`,
    `anneal_density` and `importance_sample`.

    Attributes
    ----------
    x
        ``(n, *)``.
    weights
        ``(n,)``, summing to one, float64.
    resampled
        How often the particles were resampled on the way.
    evaluations
        Evaluations of the model for each particle.
    log_evidence
        The logarithm of the normaliser of the law, in nats, as the function says that made the particles, such as of the density
        of what was measured for `twisted_smc`; None where it is not estimated.
    evidence_error
        The error of `log_evidence`, meant to have the truth within one in 68 of 100 runs, and within two in 95: its standard
        error, widened where weights are skewed. Of `corrected`, whose fits leave a bias, the truth may be within two in fewer.
        Infinite where a run cannot tell, as of `corrected` and `anneal_product` with few ancestors; None as above.
    ancestors
        The effective number of first particles that the last ones descend from: ``1 / Σ f²`` of the weights `f` of families. Of
        few, neither the weights nor the error say much. None as above.
    """

    x: Tensor
    weights: Tensor
    resampled: int
    evaluations: int
    log_evidence: float | None = None
    evidence_error: float | None = None
    ancestors: float | None = None

    def __repr__(self) -> str:
        return show_call(self)

    @classmethod
    def of_families(
        cls,
        x: Tensor,
        log_weights: Tensor,
        family: Tensor,
        resampled: int,
        evaluations: int,
        log_evidence: float,
        remedy: str,
        besides: float = 0.0,
        taken: Tensor | float = 0.0,
        bias: float = 0.0,
    ) -> Particles:
        """Return particles with the error of the evidence that their descent tells; warn where few of the first ones are left to
        tell it.

        With the weights `f` of families, those who descend from one of `n` first particles, the relative variance of the evidence
        is estimated by ``s² = (n Σ f² − 1) / (n − 1)``. A. Lee, N. Whiteley, *Variance estimation in the particle filter*, 2018,
        arXiv:1509.00394. Theirs, for multinomial resampling, takes off as much again for each resampling as chance adds to
        ``Σ f²``; systematic resampling adds none where weights are equal, so that theirs would state half of the error here.

        Weights are skewed, and a run that has drawn few of the large ones has too low a mean and too small a variance at once.
        The upper limit of a mean at two errors is ``2 s (1 + ¾ γ)``, with the skewness ``γ = Σ (f − 1 / n)³ / s³`` of the mean.
        N. J. Johnson, *Modified t tests and confidence intervals for asymmetrical populations*, 1978. Of heavy tails a sample
        shows about half of their skewness, so that the error is ``s (1 + 1.5 |γ|)``; on problems drawn at random, where weights
        are all that the evidence may be off by, the truth is then within one and two of it nearly as often as by a normal law.
        Where few families are left, `γ` is one over the root of their number. Neither `s` nor `γ` knows of families that are
        lost: where one is left, both are one.

        Parameters
        ----------
        x, resampled, evaluations, log_evidence
            As the fields.
        log_weights
            Logarithms of weights, ``(n,)``.
        family
            The first particle that each descends from, ``(n,)``.
        remedy
            What the warning says to do.
        besides
            What else the evidence may be off by, nats, of which weights know nothing; it adds to their error in squares.
        taken
            What a fit to the particles has taken from the logarithms of their weights, ``(n,)``: the error is that of weights
            which have it still. 0 by default.
        bias
            What the evidence may be off by to one side, nats; it adds to the error of weights.
        """
        n, weights = len(log_weights), log_weights.softmax(0)
        error = _skewed_error(_family_weights(log_weights + taken, family)) + bias
        shared = _family_weights(log_weights, family).square().sum().item()
        found = cls(x, weights, resampled, evaluations, log_evidence, math.hypot(error, besides), 1 / shared)
        if found.few:
            warn_caller(
                f"about {1 / shared:.0f} of the first {n} particles, or their descendants, bear all of the weight: what is "
                f"drawn has the law of these few, and log_evidence may be further off than its error says; {remedy}."
            )
        return found

    @classmethod
    def pooled(cls, runs: Iterable[Particles]) -> Particles:
        """Return the particles of independent runs of one law, such as of several processes with a seed each, as of one run.

        A run of `n` particles counts by ``n exp(log_evidence)``, and `log_evidence` becomes the logarithm of the mean of the
        normalisers, each counted by its particles; errors add in squares. `resampled` and `evaluations` are the largest of a run.

        Parameters
        ----------
        runs
            One or more, all with a `log_evidence` and its error.

        Raises
        ------
        ValueError
            If there is no run, one has no `log_evidence` or no error of it, data differ in shape, or two runs are the same.

        Examples
        --------
        >>> import sdegen
        >>> model = sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring())
        >>> runs = [sdegen.guidance.tilted_smc(model, lambda x: x[:, 0], 100, steps=20, seed=seed) for seed in (0, 1)]
        >>> Particles.pooled(runs).x.shape
        torch.Size([200, 2])
        """
        each = [check_kind("a run", run, cls, "Particles, such as tilted_smc returns") for run in runs]
        told = [(run.log_evidence, run.evidence_error, run.ancestors) for run in each]
        known = [values for values in told if None not in values]
        if not known or len(known) < len(each) or len({run.x.shape[1:] for run in each}) > 1:
            raise ValueError(
                f"{len(each)} runs, {len(known)} of them with a log_evidence and its error, with data of the shapes "
                f"{sorted({tuple(run.x.shape[1:]) for run in each})}; give one run or more of one law, all of which know it."
            )
        if any(
            mine == theirs and torch.equal(one.x, other.x)
            for (one, mine), (other, theirs) in combinations(zip(each, told, strict=True), 2)
        ):
            raise ValueError(
                "two of the runs have the same particles, and are no independent ones; give each a seed of its own."
            )
        sizes = torch.tensor([len(run.x) for run in each], dtype=torch.float64)
        evidence, errors, ancestors = torch.tensor(known, dtype=torch.float64).T
        masses = sizes.log() + evidence
        shares = masses.softmax(0)
        return cls(
            torch.cat([run.x for run in each]),
            torch.cat([share * run.weights for share, run in zip(shares, each, strict=True)]),
            max(run.resampled for run in each),
            max(run.evaluations for run in each),
            (masses.logsumexp(0) - sizes.sum().log()).item(),
            (shares * errors.masked_fill(shares == 0, 0.0)).square().sum().sqrt().item(),  # 0 · ∞ is what nothing adds
            1 / (shares.square() / ancestors).sum().item(),
        )

    @property
    def few(self) -> bool:
        """Whether the last particles descend from fewer than twenty of the first ones, and from fewer than a tenth of them:
        then they have the law of those few, and `log_evidence` may be further off than its error says. False where `ancestors` is
        None.
        """
        return self.ancestors is not None and self.ancestors < min(FEW, FEW_OF * len(self.x))

    @property
    def effective(self) -> float:
        """The effective sample size, ``1 / Σ weights²``."""
        return effective_size(self.weights)

    def mean(self, of: Tensor | None = None) -> Tensor:
        """Return the weighted mean of the data, or of values ``(n, *)`` computed from the data, float64; a ValueError if there
        are fewer or more of them than particles.
        """
        values = self.x if of is None else check_tensor("of", of, floating=False, finite=False)
        if values.shape[:1] != self.x.shape[:1]:
            raise ValueError(f"of has shape {tuple(values.shape)}; give values (n, *) of the {len(self.x)} particles.")
        return torch.tensordot(self.weights.to(values.device), values.double(), dims=1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw `n` of the particles by their weights, some several times."""
        return self.x[draw_indices(self.weights, check_draws(n, generator), generator)]


def _family_weights(log_weights: Tensor, family: Tensor) -> Tensor:
    """Return the weights of families, of sum one, ``(n,)``."""
    weights = log_weights.softmax(0)
    return torch.zeros_like(weights).index_add_(0, family, weights)


def _skewed_error(shares: Tensor) -> float:
    """Return the relative error of a mean of skewed terms, given the share that each has of their sum."""
    n = len(shares)
    apart = shares - 1 / n
    s = (apart.square().sum() * n / max(1, n - 1)).sqrt().item()
    return s + SKEWED * apart.pow(3).sum().abs().item() / s**2 if s else 0.0


class ChainStep:
    """A step of the reversed chain, the Gaussian law of the state at `s` given the one at `t`, with what a model predicts for
    the clean state and the noise.

    Parameters
    ----------
    sde
        The process.
    s, t
        The times, ``s < t``.

    Attributes
    ----------
    at_s, at_t
        The marginals of the times, given clean data.
    forward
        The transition from `s` to `t`.
    law
        The `Posterior` of the step, whose covariance it has.
    """

    def __init__(self, sde: LinearSDE, s: Tensor, t: Tensor) -> None:
        self.at_s, self.at_t = sde.marginal(s), sde.marginal(t)
        self.forward = sde.transition(s, t)
        self.law = posterior(self.at_s, self.at_t, self.forward)
        self._gain = self.law.K @ self.at_t.R

    def mean(self, x_0: Tensor, eps: Tensor) -> Tensor:
        """Return the mean ``Phi_s x_0 + K R_t eps`` of the step."""
        return self.at_s.Phi(x_0) + self._gain(eps)


def void_error_if_few(found: Particles) -> Particles:
    """Return particles that descend from few first ones with an infinite error of the evidence, and others as they are."""
    return found._replace(evidence_error=math.inf) if found.few else found


def refuse_rows(model: ScoreModel, cond: dict[str, Any], x: Tensor) -> None:
    """Refuse values with a row for each particle: resampling changes which particle is in which row."""
    named = model.with_rows(cond, x[:1], len(x)) if len(x) > 1 else []
    if named:
        raise ValueError(
            f"{named[0]} has a row for each particle; give one {named[0]} without rows, which all particles share."
        )
    if len(x) > 1 and model.part(slice(0, 1), x[:1], len(x)) is not model:
        raise ValueError("a condition fixed in the model has a row for each particle; give one without rows for all.")


def check_particles(particles: int, threshold: float) -> None:
    """Refuse a number of particles, or an effective share below which they are resampled, that means nothing."""
    check_count("particles", particles, 2, ": each is weighed beside others; give hundreds for a law")
    check_number("threshold", threshold, at_least=0, at_most=1)


def effective_size(weights: Tensor) -> float:
    """Return the effective number ``1 / Σ weights²`` of weights of sum one."""
    return 1 / weights.square().sum().item()


def log_mean_exp(log_weights: Tensor) -> Tensor:
    """Return the logarithm of the mean of weights, given their logarithms."""
    return log_weights.logsumexp(0) - math.log(len(log_weights))


def draw_indices(weights: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
    """Draw indices by systematic resampling: each as often as its weight says, to within one."""
    return resample_systematically(weights, n, torch.rand((), dtype=torch.float64, generator=generator))


def resample(log_weights: Tensor, threshold: float, generator: torch.Generator) -> Tensor | None:
    """Draw indices of resampled particles, if the effective ones are fewer than a share, and return them; None if not."""
    weights = log_weights.softmax(0)
    few = effective_size(weights) < threshold * len(weights)
    return draw_indices(weights, len(weights), generator) if few else None


def chain_times(model: ScoreModel, sde: LinearSDE, grid: Grid | None, steps: int) -> Tensor:
    """Return the times of a chain of steps, by default on `Angle` to the model's own end.

    Raises
    ------
    ValueError
        If there is no noise at the last of them.
    """
    times = (Angle(end=model.end) if grid is None else grid)(sde, steps)
    if not sde.marginal(times[-1]).R.log_abs_det().isfinite().all():
        raise ValueError(
            f"the grid ends at t = {times[-1].item():.6g}, where steps have no noise to weigh; end it later."
        )
    return times


def refuse_early_end(model: ScoreModel, sde: LinearSDE, times: Tensor, most: float = LEFT) -> None:
    """Refuse a chain whose last time has much noise: the clean states predicted there are narrower than the data.

    Raises
    ------
    ValueError
        If there is one time alone, or the noise at the last has a larger share of the variance of the data than `most`, and
        process and model end later.
    """
    if len(times) < 2:
        raise ValueError("steps = 1 leaves the first time alone, which has all of the noise; take two or more.")
    t, least = times[-1], sde.t_min if model.end is None else model.end
    left = (-sde.log_snr(t)).exp().item() / model.state_moments().variance().item()
    if left > most and t.item() > least * (1 + 1e-9):
        raise ValueError(
            f"the grid ends at t = {t.item():.6g}, where the noise has {100 * left**0.5:.2g} % of the spread of the data: "
            f"samples and log_evidence would be those of another law; end it nearer to t = {least:.6g}."
        )
