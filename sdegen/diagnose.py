"""The error budget of samples: how much of the error is due to the network, the process and the sampler.

Samples of a model differ from the data for four reasons, and where the law of the data is known each can be isolated: everything
else is replaced by the truth.
"""

from __future__ import annotations

__all__ = ["Budget", "Term", "diagnose", "resample_places"]

import html
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from .answers import ask_draws, ask_log_prob, ask_score, check_reading
from .arguments import check_arguments
from .checks import check_count
from .laws.draws import resample_systematically
from .laws.empirical import Empirical
from .laws.kernels import Transition
from .laws.operators import Scale
from .laws.outside import ClosedLaw, as_closed, as_law
from .laws.vectors import sum_rows
from .metrics import sliced_wasserstein
from .metrics.estimate import Estimate
from .models.exact import Exact
from .models.modes import evaluating
from .models.score import ScoreModel
from .processes.base import SDE
from .processes.grids import Angle
from .processes.linear import as_linear
from .processes.times import AngleTimes
from .samplers import ProbabilityFlow, Sampler, sample
from .samplers.defaults import default
from .show import show_call

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLOCKS = 8  # blocks of samples, whose distances give the standard error
ADVICE = {
    "prior": "the law at T is not the prior: let the process run longer (a larger T), or give it a prior of its own.",
    "truncation": "sampling ends before the data: let the grid end at a smaller time.",
    "discretisation": "the sampler takes too few or too coarse steps: take more, or another sampler.",
    "score": "the network is not there yet: train longer, or weight the times where the curve is high.",
}


class Term(NamedTuple):
    """One cause of error in an error budget, measured as a distance and in nats.

    Attributes
    ----------
    w2
        The sliced 2-Wasserstein distance by this cause alone.
    nats
        The cost of this cause in nats, where it has one: the gap of the prior, the Kullback–Leibler divergence to the smoothed
        law where sampling ends, and ``½ ∫ E‖Gᵀ (s − ∇ log p)‖² dt`` for the score. None for the sampler's steps.
    """

    w2: Estimate
    nats: Estimate | None

    def __repr__(self) -> str:
        return show_call(self)


def _exceeds(a: Estimate | None, b: Estimate | None) -> bool:
    """Tell whether `a` is larger than `b` by more than twice the error of their difference, where both are known."""
    return a is not None and b is not None and a.value - b.value > 2 * math.hypot(a.stderr, b.stderr)


class Budget(NamedTuple):
    """The error budget of a model's samples, split by cause: the result of `diagnose`.

    Attributes
    ----------
    terms
        ``prior``, ``truncation``, ``discretisation`` and ``score``.
    total, floor
        Sliced distances of the model's own samples to data, and of data to data, in blocks of the same size.
    times, curve
        Times in order, ``(bins + 1,)``, and the nats that the error of the score costs between neighbouring times, ``(bins,)``.
    """

    terms: dict[str, Term]
    total: Estimate
    floor: Estimate
    times: Tensor
    curve: Tensor

    def __repr__(self) -> str:
        return show_call(self)

    @property
    def cause(self) -> str:
        """The cause with the largest distance; among causes that are as large within their errors, the cause that costs most
        nats.
        """
        alike = self._alike()
        nats = {name: term.nats for name in alike if (term := self.terms[name]).nats is not None}
        return max(nats, key=lambda name: nats[name].value) if len(nats) == len(alike) else alike[0]

    @property
    def advice(self) -> str:
        """A sentence of advice about the largest cause of error, and about others that are as large or cost more nats."""
        cause, alike = self.cause, self._alike()
        others = [name for name in alike if name != cause]
        said = f"Most of the error is due to the {cause}: {ADVICE[cause]}"
        if others:
            said = f"The {cause}, as far off as the {' and the '.join(others)} within the errors, comes first: {ADVICE[cause]}"
        if self.terms[cause].w2.value < self.floor.value:
            said += " It is smaller than the distance between two such sets of data, though."
        costly = [name for name, term in self.terms.items() if _exceeds(term.nats, self.terms[cause].nats)]
        for name in costly:
            said += f" In nats the {name} costs more: {ADVICE[name]}"
        return said

    def _alike(self) -> list[str]:
        """Return the names of the terms whose distance is the largest, or less by no more than twice the error of the difference,
        in order.
        """
        order = sorted(self.terms, key=lambda name: -self.terms[name].w2.value)
        largest = self.terms[order[0]].w2
        return [name for name in order if not _exceeds(largest, self.terms[name].w2)]

    def __str__(self) -> str:
        lines = [f"{'':16}{'sliced W2':>24}{'nats':>28}"]
        for name, (w2, nats) in self.terms.items():
            lines.append(f"{name:16}{w2!s:>24}{'–' if nats is None else str(nats):>28}")
        lines += [f"{'all together':16}{self.total!s:>24}", f"{'data to data':16}{self.floor!s:>24}"]
        return "\n".join([*lines, self.advice])

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"

    def plot(self) -> Figure:
        """Draw the terms as bars, the floor as a line, and the error of the score along the time; return the figure."""
        from matplotlib.figure import Figure  # loads on use

        figure = Figure(figsize=(8, 3), layout="constrained")
        left, right = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
        names = list(self.terms)
        left.bar(names, [t.w2.value for t in self.terms.values()], yerr=[t.w2.stderr for t in self.terms.values()])
        left.axhline(self.floor.value, color="0.5", linestyle=":", label="data to data")
        left.set_ylabel("sliced W2")
        left.tick_params(axis="x", rotation=20)
        left.legend(frameon=False)
        right.stairs(self.curve.numpy(), self.times.numpy(), fill=True)
        right.set_xlabel("t")
        right.set_ylabel("nats of the score's error")
        return figure


@check_arguments
def diagnose(
    model: ScoreModel,
    data: ClosedLaw | Tensor,
    sampler: Sampler | None = None,
    *,
    n: int = 4096,
    seed: int = 0,
    bins: int = 20,
) -> Budget:
    """Split the error of a model's samples by its causes, each measured with all others replaced by the truth, and return
    a `Budget`.

    Three terms are measured with the true score. The *prior* is the effect of starting from it and not from the law at T, along a
    flow solved to high accuracy; *truncation* is the effect of taking the posterior mean for the data at the last time of the
    grid; *discretisation* is the difference of the sampler to the accurate flow up to that time. The *score* is the difference of
    the model to the truth, both along the accurate flow. The samples that are compared share their starts; for the prior they are
    drawn from the same samples by the ratio of the two densities. So distances have no floor if the sampler is deterministic; a
    stochastic sampler adds the distance of two independent sets of samples (`floor`).

    Parameters
    ----------
    model
        A score model of a linear process.
    data
        The law of the data, or data, ``(N, *)``, taken for all there are.
    sampler
        The sampler that is judged; by default the default sampler, without noise for images too, so that distances have no floor.
    n
        Number of samples in each comparison, in 8 blocks. The distance of the prior is over all samples, and its error by leaving
        out a block.
    seed
        Seed of all random draws.
    bins
        Number of bins of the curve.

    Raises
    ------
    TypeError
        If the process is not linear: the true score has no closed form.
    ValueError
        If there are fewer than 64 samples.

    Examples
    --------
    >>> import sdegen
    >>> ring = sdegen.data.gaussian_ring()
    >>> budget = diagnose(sdegen.Exact(sdegen.OU(T=0.5), ring), ring, n=1024)
    >>> budget.cause  # at T = 0.5 the ring is no Gaussian yet
    'prior'
    """
    check_count("bins", bins)
    if n < 64:
        raise ValueError(f"n = {n}; distances of {BLOCKS} blocks need at least 64 samples.")
    law: Any = Empirical(data) if isinstance(data, Tensor) else as_closed(data)
    sde = as_linear(model.sde, ", so the law of its noised states has no closed form to compare with.")
    exact = Exact(sde, law)
    sampler = default(model, eta=0.0) if sampler is None else sampler
    generator = torch.Generator().manual_seed(seed)
    # Seeds of the directions that distances are taken along, and of the noise of runs: the same for all that is compared.
    directions, noise = torch.randint(2**62, (2,), generator=generator).tolist()
    end = sampler.times(sde, True)[-1].item()
    fine = ProbabilityFlow(grid=Angle(end=end), rtol=1e-5, atol=1e-5)
    prior = as_law(sde.prior((law.moments() if model.moments is None else model.moments).in_units(sde.units)))

    def drawn(of: ScoreModel, x_T: Tensor, by: Sampler) -> Tensor:
        with torch.no_grad():
            start = of.cast_states(x_T)
            return sample(of, x_T=start, sampler=by, seed=noise, progress=False).double().cpu()

    def distance(x: Tensor, y: Tensor) -> float:
        return sliced_wasserstein(x, y, seed=directions).value

    def apart(x: Tensor, y: Tensor) -> Estimate:
        return Estimate.of([distance(a, b) for a, b in zip(x.chunk(BLOCKS), y.chunk(BLOCKS), strict=True)])

    x_0 = ask_draws(law, n, generator)
    x_T = sde.perturb(x_0, sde.T, generator=generator).x
    x_end = sde.perturb(x_0, end, generator=generator).x
    log_ratio = ask_log_prob(prior, x_T) - sde.diffused(law, sde.T).log_prob(x_T)
    times, curve, nats = _score_error(model, exact, law.sample(4 * n, generator), bins, generator)
    known = drawn(exact, x_T, fine)

    def reweighted(places: Tensor) -> float:  # of all at once: weights of few samples say little
        return distance(known[places][resample_places(log_ratio[places])], known[places])

    terms = {
        "prior": Term(_jackknife(reweighted, n), Estimate.of(-log_ratio)),
        "truncation": Term(apart(sde.project(exact.denoise(x_end, end)), x_0), _smoothing(sde, law, x_0, end)),
        "discretisation": Term(apart(drawn(exact, x_T, sampler), known), None),
        "score": Term(apart(drawn(model, x_T, fine), known), nats),
    }
    total = drawn(model, ask_draws(prior, n, generator), sampler)
    return Budget(terms, apart(total, x_0), apart(law.sample(n, generator), x_0), times, curve)


def _jackknife(value: Callable[[Tensor], float], n: int) -> Estimate:
    """Return what `value` makes of all `n` places, and its standard error by leaving out one block after the other."""
    blocks = torch.arange(n).chunk(BLOCKS)
    less = [value(torch.cat([*blocks[:k], *blocks[k + 1 :]])) for k in range(BLOCKS)]
    return Estimate(value(torch.arange(n)), (BLOCKS - 1) * Estimate.of(less).stderr)


def resample_places(log_weights: Tensor) -> Tensor:
    """Draw indices in proportion to weights by systematic resampling, as many as there are weights, and return them.

    Indices are taken in the order of their weights, so that rounding goes to places of nearly the same weight.
    """
    n, order = len(log_weights), log_weights.argsort()
    return order[resample_systematically(log_weights[order].softmax(0), n, 0.5)]


def _score_error(
    model: ScoreModel, exact: Exact, x_0: Tensor, bins: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Estimate]:
    """Return times, the parts of ``½ ∫ E‖Gᵀ (s − ∇ log p)‖² dt`` between neighbouring times, and the whole."""
    sde = exact.sde
    t, factor = AngleTimes().sample(sde, len(x_0), generator)
    t, order = t.sort()
    x = sde.perturb(x_0, t, generator=generator).x
    with torch.no_grad(), evaluating(model):
        score = torch.cat(
            [
                check_reading("score", ask_score(model, model.cast_states(a), b), b).double().cpu()
                for a, b in zip(x.split(4096), t.split(4096), strict=True)
            ]
        )
    wrong = sde.diffusion_operator(t).T(score - exact.score(x, t))
    nats = 0.5 * sum_rows(wrong.square()) * factor[order] * (sde.T - sde.t_min)
    parts, places = nats.chunk(bins), t.chunk(bins)
    curve = torch.stack([part.sum() for part in parts]) / len(nats)
    return torch.stack([places[0][0], *(place[-1] for place in places)]), curve, Estimate.of(nats)


def _smoothing(sde: SDE, law: Any, x_0: Tensor, end: float) -> Estimate | None:
    """Return ``KL(data ‖ data with the noise of the last time)``; None if the data have no density."""
    if not hasattr(law, "log_prob"):
        return None
    law, x_0 = law.in_units(sde.units), sde.standardise(x_0)
    smoothed = law.diffuse(Transition(Scale(1.0), Scale((-0.5 * sde.log_snr(end)).exp())))
    return Estimate.of(ask_log_prob(law, x_0) - smoothed.log_prob(x_0))
