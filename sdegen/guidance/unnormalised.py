"""Paths of a model beside those of a law that is known up to a constant: `PathTarget`, and weighted samples by it.

The forward process makes paths of data, ``p(x_0) ∏ p(x_t | x_s)``, with exact Gaussian kernels; a model's reversed steps make
them from noise, ``p(x_T) ∏ q(x_s | x_t)``. Their ratio is known of every path, and its mean over the model's paths is 1 where the
density is normalised, whatever the model and the number of steps. Of a law with an unknown constant the mean is that constant.
"""

from __future__ import annotations

__all__ = ["PathTarget", "importance_sample"]

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from ..answers import ask_log_prob, ask_numbers
from ..arguments import check_arguments
from ..checks import check_count
from ..laws.draws import noise_like
from ..laws.embedding import WHOLE
from ..laws.kernels import Transition
from ..laws.outside import as_law
from ..models.score import ScoreModel
from ..processes.grids import Angle
from ..processes.linear import LinearSDE, as_linear
from ..recall import recall
from ..samplers.base import Sampler
from ..samplers.exponential_sde import ExponentialSDE
from ..samplers.references import Matched
from ..samplers.rollout import Rollout, log_prob_of_steps
from ..samplers.run import sample
from ..samplers.start import check_sampler_given
from .base import check_same_process
from .moves import check_log_density
from .near import refuse_mixing
from .particles import Particles, log_mean_exp

STEPS = 100  # of a run whose number of steps nobody named
SCALE = 0.3  # of the spread of the first Gaussian: laws have detail that is finer than they are wide
WHY = ": paths from data to noise have no density there."
NO_SLOPE = (
    "log_prob(x) has no slope by x; form it by operations of torch without detach(), or train by LogVariance, which needs "
    "none."
)


class PathTarget:
    """The law of paths that end in data of an unnormalised density, to weigh a model's paths by.

    Parameters
    ----------
    log_prob
        The logarithm of the density of data ``(B, *)``, up to a constant, as ``(B,)``; with `base`, of the factor on its law.
    base
        A score model whose own paths are weighed by that factor; by default paths are those of the forward process.
    sampler
        Makes the steps; by default ``ExponentialSDE(steps, grids.Angle(end=0.0, scale=0.3), order=1, reference=Matched())``.
    steps
        Of the default sampler.
    error
        What is raised where the density is of no use.
    """

    def __init__(
        self,
        log_prob: Callable[[Tensor], Tensor],
        base: ScoreModel | None,
        sampler: Sampler | None,
        steps: int,
        error: type[ValueError] = ValueError,
    ) -> None:
        self.log_prob, self.base, self.error = log_prob, base, error
        self.sampler = _default(steps) if sampler is None else sampler
        self._looked = False

    def draw(
        self,
        model: ScoreModel,
        n: int,
        generator: torch.Generator | None,
        seed: int | None = None,
        batch: int | None = None,
        grad: bool = False,
    ) -> Rollout:
        """Draw `n` paths of a model from noise to the data themselves, recorded for derivatives if `grad` says so.

        Raises
        ------
        ValueError
            If the states at the last time are not the data, or the density of one datum depends on others.
        TypeError
            If the process is not linear.
        """
        sde = as_linear(model.sde, WHY)
        if not self._looked:
            refuse_mixing("log_prob", lambda x: ask_numbers("log_prob", self.log_prob, x), model)
            self._looked = True
        times = self.sampler.times(sde, denoise=False)
        recall(partial(_check_end, sde, times[-1]), "ends in data", sde, times[-1].item())
        if self.base is not None:
            recall(partial(check_same_process, model, self.base, "base"), "same process", sde, self.base.sde)
        return sample(
            model,
            n,
            sampler=self.sampler,
            seed=seed,
            generator=generator,
            batch=batch,
            final="sample",
            return_log_prob=True,
            grad=grad,
            progress=False,
        )

    def log_weights(self, model: ScoreModel, run: Rollout) -> Tensor:
        """Return the logarithms of the ratio of this law of paths to the model's, ``(n,)`` float64; −∞ where the density is 0.
        They are differentiable if the run is.

        Raises
        ------
        ValueError
            If the density is NaN or +∞ somewhere, or 0 everywhere, or has no slope where the run has derivatives.
        TypeError, ValueError
            If its logarithm is not one number for each point.
        """
        with torch.set_grad_enabled(run.samples.requires_grad):
            density, sde = self.densities(run.samples), as_linear(model.sde, WHY)
            if run.samples.requires_grad and not density.requires_grad:
                raise ValueError(NO_SLOPE)
            prior = _prior_of(model, run.path[0])
            if self.base is None:
                volume = sde.units.std.double().expand(run.samples.shape[1:]).log().sum()
                return density + volume + _log_prob_forward(sde, run) - prior - run.log_prob.double().sum(0)
            steps = log_prob_of_steps(self.base, run.path, run.times, sampler=self.sampler)
            return density + _prior_of(self.base, run.path[0]) + (steps - run.log_prob).double().sum(0) - prior

    def noise(self, model: ScoreModel, x: Tensor, times: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw paths of the forward process from data, ``(steps + 1, n, *)``, in the order of a run: the data come last."""
        sde = as_linear(model.sde, WHY)
        states = [sde.units.standardise(x).to(x)]
        for kernel in reversed(_recalled(sde, times)):
            early = states[-1].double()
            states.append(kernel(early).sample(noise_like(early, generator)).to(x))
        return torch.stack(states[::-1])

    def densities(self, x: Tensor) -> Tensor:
        """Return the logarithms of the density at data, ``(n,)`` float64, checked.

        Raises
        ------
        ValueError
            As `log_weights`.
        """
        values = check_log_density(ask_numbers("log_prob", self.log_prob, x).double(), x, self.error)
        if not values.isfinite().any():
            raise self.error(
                f"log_prob is -inf at all {len(x)} points, such as {x[0].tolist()}; begin nearer to the law, with "
                "model.moments of a Gaussian that covers it"
            )
        return values


def _default(steps: int) -> Sampler:
    """Return a sampler whose last step has noise also of models under conditions, whose samples' moments nobody knows."""
    return ExponentialSDE(steps, Angle(end=0.0, scale=SCALE), order=1, reference=Matched())


@check_arguments
def importance_sample(
    model: ScoreModel,
    log_prob: Callable[[Tensor], Tensor],
    n: int,
    *,
    base: ScoreModel | None = None,
    sampler: Sampler | None = None,
    steps: int | None = None,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    batch: int | None = None,
) -> Particles:
    """Draw weighted samples of a law that is known up to a constant, from the paths of a score model, and return `Particles` with
    the logarithm of the constant.

    A path has the weight

        w = f(x_0) ∏ p(x_t | x_s) / (p(x_T) ∏ q(x_s | x_t)),

    with `f` the density, `p` the exact kernels of the forward process, and `q` the steps of the model. The mean of the weights is
    ``∫ f(x) dx`` whatever the model and the number of steps; how even they are says how good both are. Of an exact model the
    weights become constant as the number of steps grows, of a Gaussian one they are at any (but for rounding). A model that has
    never been near a part of the law has no paths there, which weights do not tell: see the moments it begins with. F. Vargas,
    W. Grathwohl, A. Doucet, *Denoising diffusion samplers*, 2023, arXiv:2302.13834.

    Parameters
    ----------
    model
        A score model of a linear process without noise at 0, such as one trained by `training.LogVariance`.
    log_prob
        The logarithm of the density of data ``(B, *)`` up to a constant, ``(B,)``; −∞ where it is 0.
    n
        How many.
    base
        A score model of the same process: the law is then that of its samples times ``exp(log_prob)``, such as a tilt by a
        reward.
    sampler
        Makes steps that are Gaussian, to time 0; by default
        ``ExponentialSDE(steps, grids.Angle(end=0.0, scale=0.3), order=1, reference=Matched())``.
    steps
        Steps of that one, 100 by default.
    seed, generator
        Randomness.
    batch
        Most samples that go through the model at a time; all by default.

    Returns
    -------
    Particles
        ``(n, *)``, with weights, the effective number of samples (`Particles.effective`), and `log_evidence` with its standard
        error.

    Raises
    ------
    ValueError
        If `log_prob` is NaN or +∞ somewhere or −∞ everywhere, states at the last time are not the data, or `steps` and `sampler`
        are both given.
    TypeError
        If the process is not linear, or the sampler's steps have no density.

    Examples
    --------
    >>> import sdegen
    >>> ring = sdegen.data.gaussian_ring()
    >>> found = importance_sample(sdegen.Exact(sdegen.VP(), ring), lambda x: ring.log_prob(x) + 3.0, 500, steps=60, seed=0)
    >>> abs(found.log_evidence - 3.0) < 4 * found.evidence_error, found.effective > 350
    (True, True)
    """
    check_sampler_given(steps, sampler)
    n = check_count("n", n, 2, ": each path is weighed beside others")
    steps = STEPS if steps is None else check_count("steps", steps)
    target = PathTarget(log_prob, base, sampler, steps)
    run = target.draw(model, n, generator, seed, batch)
    log_weights = target.log_weights(model, run).cpu()
    remedy = "take a model nearer to the law, as by a longer training, or more steps"
    return Particles.of_families(
        run.samples, log_weights, torch.arange(n), 0, len(run.log_prob), log_mean_exp(log_weights).item(), remedy
    )


def _prior_of(model: ScoreModel, x: Tensor) -> Tensor:
    """Return the log-densities of states under the law that runs of a model begin with."""
    return ask_log_prob(as_law(model.sde.prior(model.state_moments())), x.double().cpu()).to(x.device)


def _log_prob_forward(sde: LinearSDE, run: Rollout) -> Tensor:
    """Return ``Σ log p(x_t | x_s)`` of a path under the forward process, ``(n,)`` float64."""
    total = torch.zeros(len(run.samples), dtype=torch.float64, device=run.path.device)
    for late, early, kernel in zip(run.path[:-1], run.path[1:], _recalled(sde, run.times), strict=True):
        total = total + kernel(early.double()).log_prob(late.double())
    return total


def _recalled(sde: LinearSDE, times: Tensor) -> list[Transition]:
    return recall(partial(_kernels, sde, times), "kernels", sde, times)


def _kernels(sde: LinearSDE, times: Tensor) -> list[Transition]:
    """Return the laws of the state at each time given that at the next one."""
    return [sde.transition(s, t) for t, s in pairwise(times)]


def _check_end(sde: LinearSDE, end: Tensor) -> bool:
    """Refuse a grid or a process whose states at the end are not the data, in units; return True, for `recall` to keep."""
    if end > 0:
        raise ValueError(
            f"the grid ends at t = {end.item():.6g}, and paths are to end in the data; give one that ends at 0, such as "
            "grids.Angle(end=0.0)."
        )
    at, same = sde.marginal(end), sde.coordinates is None and sde.embedding is WHOLE
    if not same or at.R.matrix().any():
        what = "has more numbers than the data, or others" if not same else "has noise at t = 0"
        raise ValueError(
            f"{type(sde).__name__} {what}, and the density is one of data; take a process whose states at 0 are the data, "
            "such as VP or OU."
        )
    return True
