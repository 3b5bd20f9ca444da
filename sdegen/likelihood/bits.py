"""Bits per dimension: the likelihood of images of bytes, with the dequantisation stated."""

from __future__ import annotations

__all__ = ["bits_per_dim"]

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
from .draws import log_mean, repeated
from .flow import LogProb, estimate_log_prob


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
    """Return ``−log2 P(image)`` per number of an image of bytes, an upper bound in the mean over dequantising noise.

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
        K, the draws of the noise of one image.
    generator
        Randomness of noise and probes.
    more
        As for `estimate_log_prob`: ``divergence``, ``tolerance``, conditions.

    Returns
    -------
    LogProb
        Bits per number ``(B,)``, their standard errors by probes or, for several draws, over these, and evaluations.

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
    if images.ndim < 2 or images.numel() == 0:
        raise ValueError(f"images has shape {tuple(images.shape)}; give bytes (B, *), one row at least.")
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
