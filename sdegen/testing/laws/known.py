"""The laws of a process whose transition law is known, and of one whose boundary networks see: what no other route tells."""

from __future__ import annotations

__all__ = ["KNOWN", "WAVES", "kernel_scores_its_own_samples", "networks_see_what_the_boundary_keeps"]

import torch
from torch import Tensor

from ...processes.base import SDE
from ..report import EXACT, STATISTICAL, Law, Violation, close
from .probes import generator, shapes, states


def kernel_scores_its_own_samples(sde: SDE) -> None:
    """Samples and score of the kernel are of one law: ``E[h · score + ∇·h] = 0`` for functions `h` that vanish at the ends of the
    domain (Stein's identity).
    """
    n, x = 4000, states(sde, 1, 2)
    x = x.expand(n, *x.shape[1:]).contiguous()
    for share in (0.3, 0.5):
        law = sde.kernel(x, 0.0, share * sde.T)
        y = law.sample(torch.randn(x.shape, dtype=torch.float64, generator=generator())).requires_grad_()
        score = law.score(y.detach())
        for k, h in enumerate(_vanishing(sde, y)):
            (slope,) = torch.autograd.grad(h.sum(), y, retain_graph=True)
            values = (h.detach() * score + slope).flatten(1)
            mean, error = values.mean(0), values.std(0) / n**0.5
            if not (mean.abs() <= STATISTICAL * error + 1e-9 * values.abs().amax()).all():
                raise Violation(
                    f"samples of the kernel at t = {share:g} T have E[h score + h'] = {mean.abs().max().item():.3g}, expected 0 "
                    f"± {error.max().item():.1g}, for the test function {k}"
                )


def _vanishing(sde: SDE, x: Tensor) -> list[Tensor]:
    """Return functions of each number of a state that vanish at the ends of its domain, or far out where there is none."""
    low, high = (getattr(sde.domain, name, None) for name in ("lower_bound", "upper_bound"))
    if low is not None and high is not None:
        u = (x - low) / (high - low)
        bump = u * (1 - u)
    else:
        u = (x if low is None else (x - low).log()).tanh()
        bump = 1 - u.square() if low is None else (x - low) / (1 + (x - low)).square()
    return [bump, bump * u]


def networks_see_what_the_boundary_keeps(sde: SDE) -> None:
    """A state beyond the domain is shown to a network as the one that the boundary's rule, `enter`, makes of it."""
    waves = sde.harmonics
    assert waves is not None
    for shape in shapes():
        x = states(sde, 5, *shape)
        spread = x.amax() - x.amin() + 1
        for beyond in (x - 3 * spread, x + 3 * spread):
            there, here = (waves.show(v, torch.full_like(x, 0.1), 2) for v in (beyond, sde.enter(beyond)))
            close("what a network is shown of a state beyond", there, here, 100 * EXACT, 1.0)


KNOWN: list[Law] = [kernel_scores_its_own_samples]
WAVES: list[Law] = [networks_see_what_the_boundary_keeps]
