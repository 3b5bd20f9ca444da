"""Interpolation between data through their latents under the probability flow."""

from __future__ import annotations

__all__ = ["interpolate"]

from typing import Any

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_tensor
from ..laws.interpolation import slerp
from ..models.named import read_conditions
from ..models.score import ScoreModel
from ..models.wrapper import bind_rows
from ..precision import narrowed
from ..processes.linear import is_linear
from .base import Sampler
from .encode import decode, encode
from .noise import as_seed
from .start import check_states


@check_arguments
def interpolate(
    model: ScoreModel,
    x: Tensor,
    y: Tensor,
    weights: Tensor,
    /,
    *,
    steps: int | None = None,
    sampler: Sampler | None = None,
    seed: int | None = None,
    batch: int | None = None,
    progress: bool | None = None,
    **cond: Any,
) -> Tensor:
    """Return data between `x` and `y`: their latents are interpolated along the great arc, and decoded.

    The centre of the arc (`slerp`) is the mean of the prior: points on it are as far from the mean as its ends are, while points
    of a straight line come too close to be noise. All points are decoded in one run, `batch` at a time.

    Parameters
    ----------
    model, steps, sampler, seed, batch, progress, cond
        As for `encode`; conditions hold for one row or for all.
    x, y
        Data, ``(B, *)`` both.
    weights
        Places between `x` and `y`, ``(K,)``: 0 is `x`, 1 is `y`.

    Returns
    -------
    Tensor
        ``(K, B, *)`` data.

    Raises
    ------
    TypeError, ValueError
        As for `encode`; also if the shapes of `x` and `y` differ, weights are not ``(K,)``, or encoded points lie opposite
        to each other.
    """
    cond = read_conditions(model, cond, interpolate)
    if x.shape != y.shape:
        raise ValueError(f"x has shape {tuple(x.shape)} and y {tuple(y.shape)}; give as many of the same shape.")
    weights = check_tensor("weights", weights, ndim=1).double().cpu()
    if not len(weights):
        raise ValueError("weights has shape (0,); give numbers (K,), one at least, 0 for x and 1 for y.")
    # One seed for both: what a larger state holds beyond the data is the same at both ends.
    seed = as_seed(seed, None)
    how: dict[str, Any] = {"steps": steps, "sampler": sampler, "batch": batch, "progress": progress}
    ends = [encode(model, check_states(name, v, model), seed=seed, **how, **cond) for name, v in (("x", x), ("y", y))]
    mean = _prior_mean(model, ends[0])
    arc = torch.stack([mean + slerp(ends[0] - mean, ends[1] - mean, w) for w in weights])  # (K, B, *)
    K, B = arc.shape[:2]
    bound = bind_rows(model, cond, torch.arange(B).repeat(K), ends[0][:1], B)
    points = decode(bound, arc.flatten(0, 1), **how)
    return narrowed("data", points.reshape(K, *x.shape), model.sde.telling(x.dtype, x.device))


def _prior_mean(model: ScoreModel, z: Tensor) -> Tensor:
    """Return the mean of the state at T if it has a closed form and the mean of the data is known; 0 otherwise."""
    if not is_linear(model.sde) or model.moments is None:
        return torch.zeros_like(z[:1])
    return model.sde.marginal(model.sde.T).Phi(model.sde.embed(model.state_moments().mean[None].double()).to(z))
