"""Bits per dimension: the likelihood of images of bytes, with the dequantisation stated, and the bound of a discrete chain, which
needs none.
"""

from __future__ import annotations

__all__ = ["bits_per_dim", "byte_times", "check_images", "discrete_bits_per_dim", "middles"]

import math
from typing import Any

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_count
from ..data import Scaling
from ..laws.draws import uniform_like
from ..models.named import keywords_of, read_conditions
from ..models.score import ScoreModel
from ..models.wrapper import bind_rows
from ..precision import at_least_single
from ..processes.grids import LogSNR
from ..processes.linear import as_linear
from .draws import log_mean, repeated
from .elbo import discrete_elbo
from .flow import LogProb, estimate_log_prob

COARSEST = 2.0  # steps between bytes: the noise at which a chain ends, as networks are hardly trained on less


@check_arguments
def bits_per_dim(
    model: ScoreModel,
    images: Tensor,
    scaling: Scaling | None = None,
    *,
    draws: int = 1,
    generator: torch.Generator | None = None,
    **more: Any,
) -> LogProb:
    """Estimate ``−log2 P(image)`` per number of an image of bytes, from above in the mean over dequantising noise, and return it.

    ``P(u)`` is the mass that the density of the model has in the cell of the bytes `u`: ``P(u) = E p(x(u + noise)) step^d``,
    noise uniform over the cell. With one draw, ``−E log p`` bounds ``−log P`` from above (L. Theis, A. van den Oord,
    M. Bethge, *A note on the evaluation of generative models*, 2016, arXiv:1511.01844); with K draws
    ``−E log mean_k p_k`` does, ever more closely (Y. Burda, R. Grosse, R. Salakhutdinov, *Importance weighted
    autoencoders*, 2016, arXiv:1509.00519).

    Parameters
    ----------
    model
        Any score model.
    images
        Bytes, uint8 ``(B, *)``.
    scaling
        How bytes became the model's data, a `Scaling` or a `Dequantisation`; ``Scaling(-1, 1)`` by default.
    draws
        K, how often the noise of each image is drawn.
    generator
        Randomness of noise and probes.
    more
        As for `estimate_log_prob`: ``divergence``, ``tolerance``, conditions.

    Returns
    -------
    LogProb
        Bits per number and their standard errors, ``(B,)``, and the number of evaluations. The standard errors are over the
        draws; with one draw they are those over the probes of the divergence.

    Raises
    ------
    TypeError
        If images are not bytes.
    ValueError
        If there are no draws, or as for `log_prob`.

    Examples
    --------
    >>> import sdegen
    >>> law = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1))
    >>> images = torch.tensor([[100]], dtype=torch.uint8)
    >>> round(bits_per_dim(sdegen.Exact(sdegen.VP(), law), images).value.item(), 2)  # a cell of 2 / 255 where the density is 0.39
    8.35
    """
    check_count("draws", draws)
    check_images(images)
    scaling = Scaling(-1, 1) if scaling is None else scaling
    like = model.like
    dtype = torch.float64 if like is None else at_least_single(like.dtype)
    x = scaling(images.repeat_interleave(draws, 0), dtype, generator)
    x = x if like is None else x.to(like.device)
    if scaling.noise == (0.0, 0.0):  # a `Dequantisation` has drawn its own
        x = x + scaling.step * (uniform_like(x, generator) - 0.5)
    how = {name: more.pop(name) for name in keywords_of(estimate_log_prob) if name in more}
    cond = read_conditions(model, more, estimate_log_prob)
    bound = bind_rows(model, cond, repeated(len(images), draws), model.sde.lift(x[:1]), len(images))
    found = estimate_log_prob(bound, x, generator=generator, **how)
    d = images[0].numel()
    value, stderr = log_mean(found.value.reshape(-1, draws)) if draws > 1 else (found.value, found.stderr)
    return LogProb(scaling.bits_per_dim(value, d), stderr / (d * math.log(2)), found.evaluations)


@check_arguments
def discrete_bits_per_dim(
    model: ScoreModel,
    images: Tensor,
    scaling: Scaling | None = None,
    steps: int | Tensor = 100,
    *,
    draws: int = 1,
    prior: Any = None,
    generator: torch.Generator | None = None,
    batch: int | None = None,
    **cond: Any,
) -> LogProb:
    """Estimate an upper bound of ``−log2 P(image)`` per number of an image of bytes, by the discrete chain whose last step
    generates bytes, and return it.

    ``−log P(u) <= KL(q(x_N | x) ‖ prior) + Σ KL(q(x_{k−1} | x_k, x) ‖ p(x_{k−1} | x_k)) − log P(u | x_1)``, with
    ``P(u | x_1)`` the mass that ``N(E[x_0 | x_1], 1 / snr(t_1))`` has in the cell of the byte, the outermost cells reaching to
    infinity. No noise is added to bytes. A `Codec` on the same times spends as many bits, but for the start of its file. J. Ho,
    A. Jain, P. Abbeel, *Denoising diffusion probabilistic models*, 2020, arXiv:2006.11239.

    Parameters
    ----------
    model
        A score model of a linear process.
    images
        Bytes, uint8 ``(B, *)``.
    scaling
        How bytes became the model's data, a `Scaling` or a `Dequantisation`; ``Scaling(-1, 1)`` by default.
    steps
        The number N of times on ``grids.LogSNR(digits=3)``, which end where the noise is twice the step between neighbouring
        bytes, or at `t_min` if there is more noise even there; or the times ``t_N > ... > t_1`` themselves.
    draws
        The number of chains for each image.
    prior, generator, batch, cond
        As for `elbo`.

    Returns
    -------
    LogProb
        Bits per number and their standard errors over draws, ``(B,)``, which are NaN of a single draw; and the number of
        evaluations of one chain.

    Raises
    ------
    TypeError
        If images are not bytes, or the process is not linear.
    ValueError
        As for `discrete_elbo`.

    Examples
    --------
    >>> import sdegen
    >>> law = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1))
    >>> images = torch.tensor([[100]], dtype=torch.uint8)
    >>> exact = sdegen.Exact(sdegen.VP(), law)
    >>> generator = torch.Generator().manual_seed(0)
    >>> found = discrete_bits_per_dim(exact, images, steps=300, draws=1000, generator=generator)
    >>> 8.35 < found.value.item() < 8.6  # 8.35 by the density; a chain of 100 steps has 8.9
    True
    """
    check_images(images)
    cond = read_conditions(model, cond, discrete_bits_per_dim)
    scaling = Scaling(-1, 1) if scaling is None else scaling
    x = middles(images, scaling)
    x = x if model.like is None else x.to(model.like.device)
    t = byte_times(model, scaling, steps)
    chain = discrete_elbo(
        model, x, t, draws=draws, prior=prior, cells=scaling, generator=generator, batch=batch, **cond
    )
    unit = images[0].numel() * math.log(2)
    return LogProb(-chain.value / unit, chain.stderr / unit, len(t))


def check_images(images: Tensor) -> None:
    """Refuse images that have no axis for the batch, and a batch without images."""
    if images.ndim < 2 or images.numel() == 0:
        raise ValueError(f"images has shape {tuple(images.shape)}; give bytes (B, *), one row at least.")


def middles(images: Tensor, scaling: Scaling) -> Tensor:
    """Return the middles of the cells of bytes, float64 of the same shape.

    Parameters
    ----------
    images
        Bytes, uint8.
    scaling
        How bytes become data.

    Raises
    ------
    TypeError
        If `images` are not bytes.
    ValueError
        If a byte is beyond the levels of the scaling.
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"images has dtype {images.dtype}; give bytes, torch.uint8.")
    if (most := int(images.max())) >= scaling.levels:
        raise ValueError(
            f"images hold {most}, and {scaling} has {scaling.levels} levels; give the scaling of training."
        )
    return scaling.middles(images)


def byte_times(model: ScoreModel, scaling: Scaling, steps: int | Tensor) -> Tensor:
    """Return the times of a chain that generates bytes, from noise to data: `steps` of them, or the times that were given.

    Parameters
    ----------
    model
        A score model of a linear process.
    scaling
        How bytes become data.
    steps
        The number of times, or the times themselves, as for `discrete_bits_per_dim`.

    Raises
    ------
    TypeError
        If the process is not linear.
    ValueError
        If `steps` is not positive.
    """
    sde = as_linear(model.sde, ": its noised states are not Gaussian given the data. Use sdegen.bits_per_dim.")
    if not isinstance(steps, int):
        return steps.detach().double().cpu()
    check_count("steps", steps)
    noise = COARSEST * scaling.step / sde.units.scale
    reached = noise**-2 < sde.snr(sde.t_min).item()
    end = max(sde.time(noise**-2).item(), sde.t_min) if reached else sde.t_min
    return LogSNR(start=sde.t_max, end=end, digits=3)(sde, steps)
