"""The mean of bytes given their noised values, from a network that gives each byte a mixture of Gaussians (`ByteMean`).

*Levels* are here the values of a byte, from 0 to ``levels − 1``; the noise level is `level`.
"""

from __future__ import annotations

__all__ = ["ByteMean", "posterior_mean"]

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..answers import check_answer
from ..arguments import check_arguments
from ..blocks import OfTensors
from ..checks import check_count
from ..conditions import Condition

WINDOW = 5  # levels summed over on either side of a posterior mean: five standard deviations, which are cut at one step
# Steps: the least width of a Gaussian, which leaves both neighbours of a certain level 3 of 10,000 each.
NARROWEST = 0.25
RANGE = 12.0  # nats: logarithms of widths are clamped to this absolute value
WAVES = (3, 5)  # exponents n of the waves a network is shown, of lengths of 2^n steps: 8 and 32


class ByteMean(OfTensors, nn.Module):
    """The mean of bytes given their noised values, by a network that gives each a mixture of Gaussians.

    The network inside predicts each byte from all others: K weights, means ``mu_k`` and widths ``s_k``. What the noised value
    ``x = u + rho z`` itself says of its byte `u` is known, and need not be learned: by Bayes' rule

    ``P(u | x) ∝ Σ_k w_k N(u; mu_k, s_k²) N(x; u, rho²)``, `u` one of the levels.

    The score is then right also where noise is smaller than the step between neighbouring levels, which is where most bits of a
    likelihood are decided and where a network alone is not precise enough. Such mixtures were the law of a byte in T. Salimans,
    A. Karpathy, X. Chen, D. Kingma, *PixelCNN++*, 2017, arXiv:1701.05517; as the posterior of a diffusion's data compare
    S. Dieleman et al., *Continuous diffusion for categorical data*, 2022, arXiv:2211.15089.

    Use it as the `net` of ``Model(net, sde, DataParametrization(std, delta=1e-9))``, for bytes scaled from −1 to 1 that the model
    takes as they are, not in units of their spread.

    Parameters
    ----------
    net
        A network that takes `inputs` channels for each channel of the states, and returns ``3 K``.
    levels
        The number of values that a byte can take.
    std
        The standard deviation of the data, as for the parametrisation.
    components
        K, the number of Gaussians in a mixture.

    Attributes
    ----------
    inputs
        Channels that the network inside sees for each channel of the states: the number itself, and waves of eight and 32 steps,
        which fade where noise hides them.

    Raises
    ------
    ValueError
        If there are not 2 to 256 levels, or a number is not positive; at a call, if the network returns another shape.

    Examples
    --------
    >>> from sdegen import nets
    >>> net = ByteMean(nets.UNet(ByteMean.inputs, (32,), out_channels=6), levels=17)
    >>> net(torch.randn(2, 1, 8, 8), torch.zeros(2)).shape
    torch.Size([2, 1, 8, 8])
    """

    inputs = 1 + 2 * len(WAVES)

    @check_arguments
    def __init__(self, net: nn.Module, levels: int = 256, std: float = 0.5, components: int = 2) -> None:
        super().__init__()
        check_count("components", components)
        if not std > 0:
            raise ValueError(f"std = {std}; the standard deviation of the data is positive.")
        self.net, self.levels, self.std, self.components = net, levels, std, components
        if not 2 <= check_count("levels", levels) <= 256:
            raise ValueError(f"levels = {levels}; a byte takes 2 to 256 values.")

    @property
    def declared(self) -> dict[str, Condition]:
        """The conditions of the network inside."""
        found: Any = self.net.declared
        return found

    def forward(self, x: Tensor, level: Tensor, /, **cond: Any) -> Tensor:
        """Return the mean of the data for whitened states ``(B, C, *)``, noise levels ``¼ log(sigma / alpha)`` and conditions."""
        rho = (4 * level.to(x)).exp().reshape(-1, *[1] * (x.ndim - 1))  # of the noise, relative to the signal
        noised = x * (self.std**2 + rho**2).sqrt()
        step = 2 / (self.levels - 1)  # of bytes scaled from −1 to 1
        value, width = (noised + 1) / step, rho / step
        # Each wave times the factor that noise leaves of its mean: it fades where noise hides it.
        phases = [(2 * math.pi / 2**n * value, (-0.5 * (2 * math.pi / 2**n * width) ** 2).exp()) for n in WAVES]
        seen = [x, *(fade * wave(phase) for phase, fade in phases for wave in (torch.sin, torch.cos))]
        out = self.net(torch.cat(seen, 1), level, **cond)
        shape = (len(x), 3 * self.components * x.shape[1], *x.shape[2:])
        said = check_answer(
            "net", out, shape, x, "three numbers for each component and number of the state, along dimension 1"
        )
        said = said.unflatten(1, (3, self.components, x.shape[1]))
        middle = 0.5 * (self.levels - 1)
        component = torch.arange(self.components, device=x.device).to(x).reshape(-1, *[1] * (x.ndim - 1))
        # Each component begins narrower than the one before by e²: components that begin alike would be trained alike.
        spread = (said[:, 2] - 2 * component).clamp(-RANGE, RANGE).exp() * (self.std / step) + NARROWEST
        mean = middle + self.std / step * said[:, 1]
        found = posterior_mean(value[:, None], width[:, None], said[:, 0], mean, spread, self.levels)
        return step * found - 1


def posterior_mean(value: Tensor, rho: Tensor, logit: Tensor, mean: Tensor, spread: Tensor, levels: int) -> Tensor:
    """Return the mean of levels given noised levels, ``(B, *)``, under a mixture of Gaussians restricted to the levels.

    A component whose posterior is wider than a step is taken for a Gaussian on all real numbers, whose mean hardly differs from
    that over the levels (`fade` goes from one to the other). Within that width of the first or the last level the mean is then
    not that of Bayes' rule, and may lie beyond the levels.

    Parameters
    ----------
    value, rho
        The noised level, ``(B, 1, *)``, and the standard deviation of its noise.
    logit, mean, spread
        Log-weights, means and widths of the mixture, ``(B, K, *)``.
    levels
        The number of levels, which run from 0.
    """
    total = spread.square() + rho.square()
    share = rho.square() / total
    center, tau = value + share * (mean - value), spread * share.sqrt()  # of each Gaussian times the noise's
    narrow = tau.clamp_max(1.0)  # steps: a sum over the window would cut a wider one off
    nearest = center.detach().round().clamp(0, levels - 1)
    u = nearest[..., None] + torch.arange(-WINDOW, WINDOW + 1, device=value.device)
    away = -0.5 * ((u - center[..., None]) / narrow[..., None]).square()
    away = away.masked_fill((u < 0) | (u > levels - 1), -math.inf)
    mass = torch.logsumexp(away, -1)
    cut = nearest + ((away - mass[..., None]).exp() * (u - nearest[..., None])).sum(-1)
    fade = (-(tau - narrow).square()).exp()  # 1 for a component that is narrower than a step, to 0 for wide ones
    of_each = center + fade * (cut - center)
    evidence = -0.5 * (total.log() + (mean - value).square() / total) + fade * (
        mass - (narrow * math.sqrt(2 * math.pi)).log()
    )
    return (torch.softmax(logit + evidence, 1) * of_each).sum(1)
