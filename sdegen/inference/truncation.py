"""Priors that are restricted to where a posterior has its mass, for further rounds of simulations: `Truncated`."""

from __future__ import annotations

__all__ = ["Truncated"]

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..blocks import OfTensors
from ..checks import check_number
from ..fixed import Fixed
from ..laws.draws import check_draws
from ..laws.outside import as_law
from ..show import show_call
from .posterior import AmortisedPosterior

DRAWS = 4000  # draws of the posterior on which the region is measured
BLOCK = 2**17  # draws of the prior at a time
TRIES = 500  # blocks after which the region is taken to be too small


class Truncated(OfTensors, Fixed):
    """A prior restricted to the region of highest posterior density given one datum, for a further round of simulations.

    Within the region draws have the prior's density up to a constant. So the posterior given this datum stays the same, and a
    model that is trained on them needs no correction: train on the pairs of all rounds together. Given other data the trained
    posterior is wrong. M. Deistler et al., *Truncated proposals for scalable and hassle-free simulation-based inference*, 2022,
    arXiv:2210.04815; with score models L. Sharrock et al., 2022, arXiv:2210.04872.

    A draw of the prior is kept if it lies in the bounding box of draws of the posterior, and its posterior density is at least
    that of all but a share `cut` of these draws.

    Parameters
    ----------
    posterior
        The posterior of the round before.
    x
        The datum.
    cut
        The posterior probability of the outside of the region.
    seed
        The seed of the draws on which the region is measured.

    Raises
    ------
    ValueError
        If `cut` is not between 0 and 1, or the posterior cannot take `x` as a datum.
    """

    __repr__ = show_call

    @check_arguments
    def __init__(self, posterior: AmortisedPosterior, x: Tensor, cut: float = 1e-3, *, seed: int | None = None) -> None:
        cut = check_number("cut", cut, above=0, below=1)
        self.posterior, self.x, self.prior = posterior, x, as_law(posterior.prior)
        theta = posterior.sample(DRAWS, x, seed=seed)
        self.threshold = posterior.log_prob(theta, x).double().quantile(cut).item()
        self.low, self.high = theta.amin(0), theta.amax(0)

    def contains(self, theta: Tensor) -> Tensor:
        """Return which parameters ``(n, d)`` lie in the region, ``(n,)``."""
        inside = ((theta >= self.low) & (theta <= self.high)).all(1)
        if inside.any():
            inside[inside.clone()] = self.posterior.log_prob(theta[inside], self.x) >= self.threshold
        return inside

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw `n` parameters in the region, and return them, ``(n, d)``.

        Raises
        ------
        ValueError
            If the region holds so little of the prior that too few draws are found.
        """
        kept: list[Tensor] = []
        count = check_draws(n, generator)
        for _ in range(TRIES):
            theta = self.prior.sample(BLOCK, generator).to(self.low)
            near = theta[((theta >= self.low) & (theta <= self.high)).all(1)][:count]
            kept.append(near[self.contains(near)])
            if sum(map(len, kept)) >= count:
                return torch.cat(kept)[:count]
        raise ValueError(
            f"the region holds {sum(map(len, kept))} of {TRIES * BLOCK} draws of the prior, and {n} are wanted; take the "
            "posterior of an earlier round, or a larger cut."
        )
