"""The loop around a sampler's step: start, noise, progress, path, and the last move to clean data."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..kernels import noise_like
from ..models import Conditioned, ScoreModel
from .base import Sampler
from .ddim import DDIM
from .euler import EulerMaruyama


def default(model: ScoreModel, steps: int | None = None) -> Sampler:
    """The sampler used where none is named: DDIM for linear processes, Euler–Maruyama for others."""
    if model.sde.is_linear:
        return DDIM(50 if steps is None else steps)
    return EulerMaruyama(500 if steps is None else steps)


def sample(
    model: ScoreModel,
    n: int | None = None,
    *,
    x_T: Tensor | None = None,
    steps: int | None = None,
    sampler: Sampler | None = None,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    final: str | None = None,
    return_path: bool = False,
    progress: bool | None = None,
    **cond: Any,
) -> Tensor:
    """Draw samples from a score model.

    Parameters
    ----------
    model
        Any score model.
    n
        How many; or give `x_T`.
    x_T
        States to start from, ``(n, *)``; drawn from the prior by default.
    steps
        Steps of the default sampler; give it, or a `sampler`.
    sampler
        Any of `samplers`.
    seed, generator
        Randomness; a seed reproduces a run bit for bit on one machine.
    final
        ``"denoise"``: the posterior mean of the clean data at the grid's last time, the default for linear processes;
        ``"sample"``: the state at that time.
    return_path
        Return every state, ``(times, n, *)``, the last move included.
    progress
        Show a bar; by default where standard error is a terminal.
    cond
        Conditions for the network, each with `n` rows or one value.

    Returns
    -------
    Tensor
        ``(n, *)`` samples of the data, in the model's dtype and on its device.

    Raises
    ------
    ValueError
        If arguments contradict each other, nothing is known of the prior, or a state turns non-finite.
    TypeError
        If the sampler does not suit the process.
    """
    if steps is not None and sampler is not None:
        raise ValueError(f"steps = {steps} and a sampler were both given; set the steps in the sampler.")
    if (n is None) == (x_T is None):
        raise ValueError("give either n, a number of samples, or x_T, states to start from.")
    if seed is not None:
        if generator is not None:
            raise ValueError("seed and generator were both given; one source of randomness is enough.")
        generator = torch.Generator().manual_seed(seed)
    sampler = default(model, steps) if sampler is None else sampler
    sde = model.sde
    final = ("denoise" if sde.is_linear else "sample") if final is None else final
    if final not in ("denoise", "sample"):
        raise ValueError(f'final = {final!r}; expected "denoise" or "sample".')
    if final == "denoise" and not sde.is_linear:
        raise TypeError(f'{type(sde).__name__} is not linear and has no denoiser; use final="sample".')
    times = sampler.times(sde, final == "denoise")
    x = start(model, n, generator) if x_T is None else _checked(x_T)
    bound: Any = Conditioned(model, **cond) if cond else model
    show = sys.stderr.isatty() if progress is None else progress
    with torch.no_grad(), evaluating(model):
        plan = sampler.plan(bound, times)
        path, sums, state = [x], [], None
        for c in tqdm(plan, disable=not show, desc=type(sampler).__name__, leave=False):
            x, state = sampler.step(bound, x, c, lambda like: noise_like(like, generator), state)
            sums.append(x.sum())  # looked at once, at the end: no synchronisation inside the loop
            if return_path:
                path.append(x)
        if final == "denoise":
            x = bound.denoise(x, times[-1])
            path.append(x)
            sums.append(x.sum())
    bad = ~torch.stack([s.isfinite() for s in sums]).cpu() if sums else torch.zeros(1, dtype=torch.bool)
    if bad.any():
        i = int(bad.nonzero()[0, 0])
        t = times[min(i, len(times) - 1)].item()
        raise ValueError(
            f"the state turned non-finite in step {i + 1} of {len(sums)}, from t = {t:.6g}; take more steps, another grid or "
            "sampler, or check the model at that time."
        )
    return torch.stack([sde.project(u) for u in path]) if return_path else sde.project(x)


def start(model: ScoreModel, n: int | None, generator: torch.Generator | None) -> Tensor:
    """`n` draws from the prior, in the model's dtype and on its device."""
    if not isinstance(n, int) or n < 1:
        raise ValueError(f"n = {n}; ask for at least one sample.")
    if model.moments is None:
        raise ValueError(
            "the model does not know its data's moments, so the prior cannot be matched; fit it, set model.moments = "
            "sdegen.Moments(mean, covariance), or pass x_T."
        )
    x = model.sde.prior(model.moments).sample(n, _on_cpu(generator))
    weight = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return x if weight is None else x.to(weight)


def _on_cpu(generator: torch.Generator | None) -> torch.Generator | None:
    if generator is None or generator.device.type == "cpu":
        return generator
    seed = torch.randint(2**62, (), generator=generator, device=generator.device)
    return torch.Generator().manual_seed(int(seed))


def _checked(x_T: Tensor) -> Tensor:
    if not x_T.is_floating_point():
        raise TypeError(f"x_T has dtype {x_T.dtype}; give floating-point states.")
    if not x_T.isfinite().all():
        raise ValueError("x_T holds NaN or infinite values; give finite states.")
    return x_T


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """The model in evaluation mode, and back."""
    training = isinstance(model, nn.Module) and model.training
    if training:
        model.eval()
    try:
        yield
    finally:
        if training:
            model.train()
