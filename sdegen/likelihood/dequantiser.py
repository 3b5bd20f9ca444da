"""Noise in the cells of bytes whose law is learned, by a flow that is told the bytes."""

from __future__ import annotations

__all__ = ["Dequantiser"]

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions.transforms import SigmoidTransform

from ..answers import ask_numbers
from ..arguments import check_arguments
from ..baselines.flow import Bijection, Composition, Squeeze
from ..baselines.realnvp import Coupling, partitions
from ..checks import check_count, check_tensor
from ..data import Scaling
from ..laws.draws import uniform_like
from ..laws.mixtures import Moments
from ..laws.vectors import as_vectors
from ..nets import Convolutional, Perceptron
from ..nets.entries import zero
from .draws import log_mean, repeated
from .elbo import Bound

SIGMOID = SigmoidTransform()
# Of a cell, kept free of noise on either side, so that rounding to float32 moves no number into the next one.
CLEAR = 2.0**-14


class Dequantiser(nn.Module):
    """Noise in the cells of bytes with a learned law ``q(y | u)``, for models of continuous data: variational dequantisation.

    A density `p` gives bytes `u` the probability ``P(u) = ∫ p(y) dy`` over their cell, and

    ``log P(u) >= E_q[log p(y) − log q(y | u)]``,

    with equality where `q` is the law that `p` has in the cell. Uniform noise is that law only of a density that is flat on its
    cells; noise that is learned lies where the density is. It starts as uniform noise, but for a part of 1 / 8,192 at the edges;
    then couplings move and scale its log-odds. Their networks see all bytes of a vector, and of an image those around a pixel, as
    far as their convolutions reach. J. Ho, X. Chen, A. Srinivas, Y. Duan, P. Abbeel, *Flow++: improving flow-based generative
    models with variational dequantization and architecture design*, 2019, arXiv:1902.00275.

    Train it after the density, which then stays as it is,
    ``fit(q, images.scaled(-1, 1), loss=lambda q, x, generator: -q.bound(x, flow.log_prob, generator=generator).value)``,
    or beside it, by the same loss of a module that has both.

    Parameters
    ----------
    shape
        The shape of a datum: ``(D,)``, or ``(C, H, W)``.
    scaling
        How bytes become the data of `p`, a `Scaling` or a `Dequantisation`; ``Scaling(-1, 1)`` by default.
    couplings
        The number of couplings after the first. The first moves all noise by the bytes alone; each of the others moves half of
        the noise, by the bytes and the other half. With 0, the noise of one number does not depend on that of another.
    width, depth
        Sizes of the couplings' networks, `nets.Perceptron` or `nets.Convolutional`.

    Raises
    ------
    ValueError
        If `shape` has neither one nor three sides, couplings cannot halve it, or a size is not positive.

    Examples
    --------
    >>> q = Dequantiser((4,), Scaling(0, 3, levels=4))
    >>> y, log_q = q(torch.tensor([[0.0, 1.0, 2.0, 3.0]]), torch.Generator().manual_seed(0))
    >>> y.round().abs().tolist(), round(log_q.item(), 3)  # in the cells of the bytes, and uniform there before it is trained
    ([[0.0, 1.0, 2.0, 3.0]], 0.0)
    """

    moments: Moments | None = None

    @check_arguments
    def __init__(
        self,
        shape: Sequence[int],
        scaling: Scaling | None = None,
        couplings: int = 4,
        width: int = 32,
        depth: int = 1,
    ) -> None:
        super().__init__()
        shape = tuple(shape)
        if len(shape) not in (1, 3):
            raise ValueError(
                f"shape = {shape}; give (D,) for vectors, (C, H, W) for images, and flatten what is neither."
            )
        for side in shape:
            check_count("a side of shape", side)
        check_count("couplings", couplings, 0), check_count("width", width), check_count("depth", depth)
        self.shape, self.scaling = shape, Scaling(-1, 1) if scaling is None else scaling
        self.couplings, self.width, self.depth = couplings, width, depth
        self._side = (1 - 2 * CLEAR) * self.scaling.step  # the length of the part of a cell that noise comes to
        self.squeeze: Bijection | None = None if len(shape) == 1 or couplings == 0 else Squeeze()
        if couplings and (shape == (1,) or any(side % 2 for side in shape[1:])):
            raise ValueError(f"shape = {shape} cannot be halved; give couplings=0.")
        self.channels = shape[0] * (1 if self.squeeze is None else 4)
        self.net = Composition([self._coupling(mask) for mask in self._masks()])

    def _masks(self) -> list[Tensor]:
        """Return which channels of the noise each coupling changes: first all of them."""
        n = self.channels
        halves = partitions(n) if self.squeeze is not None else [torch.arange(n) % 2 == k for k in (0, 1)]
        return [torch.ones(n, dtype=torch.bool), *(halves[k % len(halves)] for k in range(self.couplings))]

    def _coupling(self, changed: Tensor) -> Coupling:
        """Return a coupling of the noise and the bytes, which it leaves as they are; the identity at first."""
        n, m = 2 * self.channels, int(changed.sum())
        kind = Perceptron if len(self.shape) == 1 else Convolutional
        net = kind(n - m, 2 * m, self.width, self.depth)
        zero(net.last)
        return Coupling(torch.cat([changed, torch.zeros_like(changed)]), net)

    @check_arguments
    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw numbers in the cells of bytes, and return them with their ``log q`` in nats: ``(B, *)`` and ``(B,)``.

        Parameters
        ----------
        x
            Bytes as data, such as ``scaling(images)``: any number in its cell, ``(B, *)``.
        generator
            Randomness of the noise.

        Raises
        ------
        ValueError
            If `x` has another shape, or numbers outside all cells.
        """
        middle, seen = self._cells(self._check("x", x))
        start = SIGMOID.inv(uniform_like(seen, generator))
        end, log_det = self._move(start, seen)
        log_q = _log_logistic(start) - log_det - _log_logistic(end)
        noise = SIGMOID(end) if self.squeeze is None else self.squeeze.inverse(SIGMOID(end))
        return middle + self._side * (noise.to(middle) - 0.5), log_q - self._log_volume

    @check_arguments
    def log_prob(self, y: Tensor) -> Tensor:
        """Return ``log q(y | u)`` in nats, ``(B,)``, for the bytes `u` whose cells the numbers lie in; −∞ where no noise comes.

        Parameters
        ----------
        y
            Numbers in the cells of bytes, ``(B, *)``.
        """
        middle, seen = self._cells(self._check("y", y))
        noise = (y.to(middle) - middle) / self._side + 0.5
        # Numbers that were drawn at an edge may have been rounded over it by this much.
        rounded = torch.finfo(y.dtype).eps * (1 + y.to(middle).abs() / self._side)
        outside = as_vectors((noise < -rounded) | (noise > 1 + rounded)).any(1)
        noise = noise.clamp(0, 1).to(seen)
        end = SIGMOID.inv(noise if self.squeeze is None else self.squeeze(noise)[0])
        start = self.net.inverse(torch.cat([end, seen], 1))[:, : self.channels]
        log_det = self._move(start, seen)[1]
        log_q = _log_logistic(start) - log_det - _log_logistic(end) - self._log_volume
        return log_q.masked_fill(outside, -math.inf)

    @property
    def _log_volume(self) -> float:
        return math.prod(self.shape) * math.log(self._side)

    @check_arguments
    def bound(
        self,
        x: Tensor,
        log_prob: Callable[[Tensor], Tensor],
        *,
        draws: int = 1,
        generator: torch.Generator | None = None,
    ) -> Bound:
        """Return a lower bound of the log-probabilities of bytes under a density, ``log mean_k p(y_k) / q(y_k | u)``, in nats.

        The bound holds in the mean over the noise, and is the closer the more draws there are (Y. Burda, R. Grosse,
        R. Salakhutdinov, *Importance weighted autoencoders*, 2016, arXiv:1509.00519). Where `log_prob` is itself an estimate,
        such as that by `derivatives.Hutchinson`, it holds with one draw alone. In bits per number it is ``−bound / (D log 2)``.

        Parameters
        ----------
        x
            Bytes as data, such as ``scaling(images)``, ``(B, *)``.
        log_prob
            The log-density in nats, ``(B,)`` of ``(B, *)``: of a flow ``flow.log_prob``, of a score model
            ``lambda y: sdegen.log_prob(model, y)``.
        draws
            K, how often the noise of each datum is drawn.
        generator
            Randomness of the noise.

        Returns
        -------
        Bound
            The bound and its standard error over draws, ``(B,)``, differentiable as `log_prob` is.

        Raises
        ------
        ValueError
            As for a call, or if the answer of `log_prob` has another shape.
        """
        check_count("draws", draws)
        y, log_q = self(self._check("x", x)[repeated(len(x), draws)], generator)
        log_weight = ask_numbers("log_prob", log_prob, y) - log_q
        return Bound(*log_mean(log_weight.reshape(-1, draws)))

    def _check(self, name: str, x: Tensor) -> Tensor:
        """Check that rows have the shape of a datum, and that there is one at least; return them."""
        if len(check_tensor(name, x, shape=(None, *self.shape))) == 0:
            raise ValueError(f"{name} has shape {tuple(x.shape)}; give one row at least.")
        return x

    def _cells(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the middles of the cells of bytes, and the bytes as the networks see them."""
        like = next(self.parameters())
        u = self.scaling.inverse(x).to(like.device)
        seen = 2 / (self.scaling.levels - 1) * u.to(like) - 1
        middle = self.scaling.middles(u).to(torch.promote_types(x.dtype, like.dtype))
        return middle, seen if self.squeeze is None else self.squeeze(seen)[0]

    def _move(self, z: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-odds of noise after all couplings, and their log-determinant."""
        out, log_det = self.net(torch.cat([z, seen], 1))
        return out[:, : self.channels], log_det


def _log_logistic(z: Tensor) -> Tensor:
    """Return the log-density of the log-odds of uniform numbers, ``(B,)``."""
    return -as_vectors(F.softplus(z) + F.softplus(-z)).sum(1)
