"""Image editing by partial noising: data are noised up to a time and denoised again (SDEdit)."""

from __future__ import annotations

__all__ = ["edit"]

from copy import copy
from typing import Any

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_number
from ..models.named import keywords_of, read_conditions
from ..models.score import ScoreModel
from ..models.wrapper import Conditioned
from ..precision import narrowed
from ..processes.linear import is_linear
from .base import Sampler
from .defaults import default
from .noise import SampleNoise, as_seed
from .run import sample
from .start import check_sampler_given, check_states


@check_arguments
def edit(
    model: ScoreModel,
    x: Tensor,
    t: float,
    *,
    steps: int | None = None,
    sampler: Sampler | None = None,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    **more: Any,
) -> Tensor:
    """Noise data up to a time and denoise them again, and return them: coarse features stay those of `x`, fine ones are
    the model's.

    ``x_t = Phi x + R z`` is drawn from the kernel, and sampling starts there. With a true score, and `x` of the law of the data,
    the result has this law too, whatever `t`; otherwise it keeps of `x` what the noise at `t` has left. Conditions, and wrappers
    of `guidance`, act on the way back. C. Meng et al., *SDEdit: guided image synthesis and editing with stochastic differential
    equations*, 2021, arXiv:2108.01073.

    Parameters
    ----------
    model
        A score model of a linear process.
    x
        Data, ``(B, *)``.
    t
        The time up to which the data are noised, in ``(0, T]``; ``sde.time(level**-2)`` is the time of a level ``sigma / alpha``.
    steps
        Evaluations of the default sampler on the way back; give either `steps` or a `sampler`.
    sampler
        Any sampler; its grid is made to begin at `t`.
    seed, generator
        Randomness.
    more
        As for `sample`: conditions, `batch`, `progress` and the like.

    Returns
    -------
    Tensor
        ``(B, *)`` data.

    Raises
    ------
    TypeError
        If the process is not linear, so that noised states are simulated, not drawn.
    ValueError
        If `t` is not after the time at which sampling ends, the sampler begins at another time (as with a `Given` grid, or a
        sampler inside another), or steps and a sampler are both given.
    """
    sde = model.sde
    if not is_linear(sde):
        raise TypeError(
            f"{type(sde).__name__} is not linear, so its noised states cannot be drawn; take simulate(sde, x, 0, t), and "
            "sample(x_T=...) from there."
        )
    data = check_states("x", x, model)
    check_number("t", t, above=0)
    check_sampler_given(steps, sampler)
    seed = as_seed(seed, generator)
    own = keywords_of(sample)
    cond = read_conditions(model, {name: value for name, value in more.items() if name not in own}, edit)
    whole = Conditioned(model, **cond) if cond else model
    sampler = copy(default(whole, steps) if sampler is None else sampler)
    sampler.grid = copy(sampler.default_grid() if sampler.grid is None else sampler.grid)
    sampler.grid.start = t
    sampler.grid.ends(sde)  # refuses a time that is none
    first = sampler.times(sde, True)[0].item()
    if abs(first - t) > 1e-9 * sde.T:
        raise ValueError(
            f"{type(sampler).__name__} begins at t = {first:.6g}, not at the t = {t:.6g} that was asked for; "
            "give a sampler that takes its times from its grid."
        )
    state, at = sde.lift(data), sde.marginal(t)
    z = SampleNoise(seed)(state)  # of each sample by itself, however many there are
    edited = sample(model, x_T=at.Phi(state) + at.R(z), sampler=sampler, seed=seed + 1, **more)
    return narrowed("data", edited, sde.telling(x.dtype, edited.device))
