"""A network as the score itself, for any process: `DirectModel`.

For linear processes there is `Model`, which scales what goes in and comes out at every noise level.
"""

from __future__ import annotations

__all__ = ["DirectModel"]

from typing import Any

import torch
from torch import Tensor, nn

from ..answers import check_answer
from ..arguments import check_arguments
from ..checks import check_count
from ..laws.harmonics import Harmonics
from ..laws.mixtures import Moments
from ..laws.operators import Elementwise
from ..laws.outside import as_law
from ..levels import ask_net
from ..precision import at_least_single
from ..processes.base import SDE
from ..processes.times import EARLIEST
from ..processes.transformed import Transformed, TransformedLaw
from ..processes.validity import check_process
from ..signatures import check_call
from .network import Trainable
from .score import check_dtype


class DirectModel(Trainable):
    """A score model of any SDE, linear or not, whose network gives the score: ``score = base(x) + F(x / scale, c_noise) /
    scale``.

    On a circle or in a box a network that sees the state itself may have a jump where the circle closes, or push through a wall.
    There it is shown waves of the state (`SDE.harmonics`) and answers along their slopes. The waves are cosine and sine of each
    angle, so that the score is periodic, or cosine of each number in the box and nearness of a wall, so that the score has no
    part through the walls. So a network for two angles, or for two numbers in a box, takes four numbers, ``MLP(4)``.

    Parameters
    ----------
    net
        Called as ``net(x, c_noise, **cond)`` with ``c_noise = ¼ log max(t, t_min, 1e-6 T)``, since it is not trained at earlier
        times.
    sde
        Any SDE. If states have bounds, and there are coordinates without bounds, as for `CIR` on the half-line, the process is
        taken in these (`Transformed`), so that no step of a sampler leaves the domain. The network sees ``log(x + V / x)`` on the
        half-line, with the variance `V` of the noise so far, and the like on an interval (`Coordinates.seen`): an end that noise
        reaches is then not far away.
    scale
        The length by which input and output are scaled; only the output if the network is shown waves.
    base
        A law to whose ``score(x)`` the network's answer is added, so that the network says only how the law of the state differs
        from noise. By default it is the prior, once the data's moments are known, if the process has a known law or is taken in
        coordinates without bounds, where the prior's score has the limits of the state's at the ends of the domain; otherwise
        there is none. In such coordinates the network's answer is then of the size of the noise, and less towards the ends.
    orders
        The number of waves of each kind on a circle or in a box, ``cos x, cos 2x, …``: with more, fine detail is easier to learn.
        A network for `d` angles then takes ``2 orders d`` numbers, and for `d` numbers in a box ``(orders + 1) d``.

    Raises
    ------
    TypeError
        If `base` has no ``score``.
    ValueError
        If `scale` is not positive, or `orders` is not 1 on a process whose states are shown as they are.
    """

    @check_arguments
    def __init__(self, net: nn.Module, sde: SDE, scale: float = 1.0, base: Any = None, orders: int = 1) -> None:
        super().__init__()
        if not scale > 0:
            raise ValueError(f"scale = {scale}; it must be positive.")
        base = as_law(base)
        if base is not None and not hasattr(base, "score"):
            raise TypeError(f"base is {type(base).__name__}, which has no score; give a law with score(x), or None.")
        check_process(sde)
        check_call("net", net, ["x", "level"], conditions=True)
        sde = sde if sde.free is None or sde.coordinates is not None else Transformed(sde, sde.free)
        if check_count("orders", orders) > 1 and sde.harmonics is None:
            raise ValueError(
                f"orders = {orders} on {type(sde).__name__}, whose states the network is shown as they are; leave out orders, "
                "which are of waves on a circle or in a box."
            )
        self.net, self.sde, self.scale, self.base, self.orders = net, sde, scale, base, orders
        self._prior_of: tuple[Moments | None, Any] = (None, None)  # moments of data, and the prior for these

    def asked(self) -> dict[str, Any]:
        """Return the process, and all else that makes the score of the network's answer."""
        return super().asked() | {"scale": self.scale, "base": self.base, "orders": self.orders}

    def score(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
        """Return the score, the network's output added to the base score."""
        dtype = check_dtype(self, x)
        t = torch.as_tensor(t, dtype=torch.float64).clamp_min(max(self.sde.t_min, EARLIEST * self.sde.T))
        c_noise = 0.25 * t.log().reshape(-1)
        c_noise = c_noise.to(x.device, at_least_single(dtype), non_blocking=True)
        noise = self._noise(x, t)
        if self.sde.harmonics is None:
            coordinates = self.sde.coordinates
            seen = x if noise is None or coordinates is None else coordinates.seen(x, noise)
            out = check_answer("net", ask_net(self.net, (seen / self.scale).to(dtype), c_noise, **cond), x.shape, x)
        else:
            out = self._along_waves(self.sde.harmonics, x, t, c_noise, dtype, **cond)
        score = out / self.scale
        base = self._base()
        if noise is not None and (self.sde.is_known or base is not None):
            score = score * _size_beyond_base(noise)
        return score if base is None else score + check_answer("base.score", base.score(x), x.shape, x)

    def _along_waves(
        self, waves: Harmonics, x: Tensor, t: Tensor, c_noise: Tensor, dtype: torch.dtype, /, **cond: Any
    ) -> Tensor:
        """Return ``Σ_k F_k ∇e_k``: the slopes of the waves `e`, weighted by the answer `F` of the network, which is shown the
        waves.
        """
        noise = self.sde.root(t, x)(torch.ones_like(x))
        shown = waves.show(x, noise, self.orders)
        out = check_answer("net", ask_net(self.net, shown.to(dtype), c_noise, **cond), shown.shape, x)
        return waves.score(x, out, noise, self.orders)

    def _noise(self, x: Tensor, t: Tensor) -> Tensor | None:
        """Return the standard deviation of the noise so far in each number of a state if the data have bounds or lie on a circle.

        It is None otherwise, and if noise moves coordinates together.
        """
        if self.sde.coordinates is None and self.sde.harmonics is None:
            return None
        root = self.sde.root(t, x)
        return root(torch.ones_like(x)) if isinstance(root, Elementwise) else None

    def _base(self) -> Any:
        """Return the law whose score the network's answer is added to, the prior by default; None if there is none."""
        by_default = self.sde.is_known or self.sde.coordinates is not None
        if self.base is not None or not by_default or self.moments is None:
            return self.base
        known, law = self._prior_of
        if known is not self.moments:
            law = _prior_with_score(self.sde, self.state_moments())
            self._prior_of = self.moments, law
        return law

    def noise(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
        """Return ``E[z | x_t] = −Rᵀ score``, which follows from the score even if there is no signal."""
        return self._marginal(t).noise_from_score(self.score(x, t, **cond))

    forward = score


def _size_beyond_base(noise: Tensor) -> Tensor:
    """Return the expected size of the difference of a score from that of the base, ``ρ / (1 + √ρ)`` with ``ρ = 1 / R²``.

    `R` is the standard deviation of the noise so far. Where it is small, the size is ``1 / R``, that of the score of the noise.
    Coordinates without bounds bring an end of the domain to infinity, and their noise with it: a ratio of densities that is
    smooth in the data has a slope of ``1 / R²`` there, and a larger slope would carry states through the end in finite time.
    """
    rho = 1 / noise.square()
    return rho / (1 + rho.sqrt())


def _prior_with_score(sde: SDE, moments: Moments) -> Any:
    """Return the prior of a process; None if the process declares none, or the prior has no score."""
    try:
        law = as_law(sde.prior(moments))
    except NotImplementedError:
        return None
    of_data = law.law if isinstance(law, TransformedLaw) else law
    return law if hasattr(of_data, "score") else None
