"""Bits per dimension by the flow, from bytes that carry the noise of the process in place of uniform noise."""

from __future__ import annotations

__all__ = ["noised_bits_per_dim"]

import math
from typing import Any

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_count, check_number
from ..data import Scaling
from ..data.parts import check_batch
from ..laws.derivatives import Divergence
from ..laws.draws import uniform_like
from ..laws.outside import as_law
from ..laws.vectors import sum_rows
from ..models.modes import evaluating
from ..models.named import read_conditions
from ..models.score import ScoreModel
from ..models.wrapper import bind_rows
from ..precision import at_least_single
from ..processes.scalar import as_scalar
from .bits import check_images, middles
from .draws import log_density, log_mean, repeated
from .flow import LogProb, carry
from .path import Integration, Path


@check_arguments
def noised_bits_per_dim(
    model: ScoreModel,
    images: Tensor,
    scaling: Scaling | None = None,
    *,
    noise: float = 1 / 6,
    draws: int = 1,
    divergence: Divergence | None = None,
    tolerance: float | None = None,
    generator: torch.Generator | None = None,
    batch: int | None = None,
    **cond: Any,
) -> LogProb:
    """Estimate ``−log2 P(image)`` per number of an image of bytes, from above in the mean, by the flow of noised bytes.

    ``−log P(u) <= E[log q(x | u) − log p_t(x)]``: `t` is the time at which the noise of the process is `noise` times the step
    between bytes, and ``p_t`` the density that the flow gives to states then. `q` is the law of ``alpha x(u) + sigma z``, with
    `z` normal and cut off where `x` would be in the cell of another byte. So the model is asked about states like those that it
    was trained on. Uniform noise (`bits_per_dim`) makes no such states, unless the model was trained with it. Several draws are
    weighted by importance. K. Zheng, C. Lu, J. Chen, J. Zhu, *Improved techniques for maximum likelihood estimation for diffusion
    ODEs*, 2023, arXiv:2305.03935.

    Parameters
    ----------
    model
        A score model of a scalar process, trained on bytes that were scaled and not dequantised.
    images
        Bytes, uint8 ``(B, *)``.
    scaling
        How bytes became the model's data; ``Scaling(-1, 1)`` by default.
    noise
        Standard deviation of the noise relative to the signal, in steps between bytes. Where each coordinate has units of its
        own, the root mean square over the coordinates.
    draws
        How often the noise of each image is drawn.
    divergence, tolerance, generator, batch
        As for `estimate_log_prob`.
    cond
        Conditions of the model.

    Returns
    -------
    LogProb
        Bits per number and their standard errors, ``(B,)``, and the number of evaluations. The standard errors are over the
        draws; with one draw they are those over the probes of the divergence.

    Raises
    ------
    TypeError
        If images are not bytes, or the process is not scalar.
    ValueError
        If a number is not positive, the process never has so little noise, or as for `log_prob`.

    Examples
    --------
    >>> import sdegen
    >>> law = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1))
    >>> images = torch.tensor([[100]], dtype=torch.uint8)
    >>> found = noised_bits_per_dim(sdegen.Exact(sdegen.VP(), law), images, draws=50, generator=torch.Generator().manual_seed(0))
    >>> round(found.value.item(), 1)  # 8.35 by the density; with a single draw half a bit more, as it is smooth over the cell
    8.5
    """
    check_count("draws", draws), check_number("noise", noise, above=0)
    check_batch(batch)
    check_images(images)
    cond = read_conditions(model, cond, noised_bits_per_dim)
    sde = as_scalar(model.sde, ": its noise is not of one size. Use sdegen.bits_per_dim.")
    scaling = Scaling(-1, 1) if scaling is None else scaling
    like = model.like
    dtype = torch.float64 if like is None else at_least_single(like.dtype)
    x = middles(images, scaling).repeat_interleave(draws, 0)
    x = x if like is None else x.to(like.device)
    ratio = noise * scaling.step / sde.units.scale  # of the noise to the signal, in units of the process
    t = sde.time(ratio**-2)
    z, log_q = _truncated_normal(0.5 * scaling.step / sde.units.stretch(torch.full_like(x, ratio)), generator)
    at = sde.marginal(t)
    log_q = log_q - x[0].numel() * at.R.matrix()[..., 0, 0].log().item()
    u = at.Phi(sde.lift(x)) + at.R(z)
    prior = as_law(sde.prior(model.state_moments()))

    def at_start(u: Tensor, path: Path) -> Tensor:
        return log_density(prior, path.end) + path.log_volume

    with torch.no_grad(), evaluating(model):
        bound = bind_rows(model, cond, repeated(len(images), draws), u[:1].to(dtype), len(images))
        times, how = (t.item(), sde.T), Integration(tolerance)
        found = carry(bound, u.to(dtype), times, at_start, divergence, how.check(), generator, batch, {})[1]
    unit = images[0].numel() * math.log(2)
    log_weight = found.value - log_q.to(found.value)
    value, stderr = log_mean(log_weight.reshape(-1, draws)) if draws > 1 else (log_weight, found.stderr)
    return LogProb(-value / unit, stderr / unit, found.evaluations)


def _truncated_normal(most: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Draw normal noise, cut off at a size for each number, and return it with the logarithm of its density, ``(B,)``.

    Parameters
    ----------
    most
        The size at which each number is cut off, ``(B, *)``.
    generator
        Randomness of the noise.
    """
    low, high = (torch.special.ndtr(v) for v in (-most.double(), most.double()))
    z = torch.special.ndtri(low + (high - low) * uniform_like(most, generator).double())
    normal = -0.5 * z.square() - 0.5 * math.log(2 * math.pi) - (high - low).log()
    return z, sum_rows(normal)
