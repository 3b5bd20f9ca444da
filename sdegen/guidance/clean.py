"""Thresholding: score models whose predicted clean data are brought back into the range of the data."""

from __future__ import annotations

__all__ = ["Clipped", "DynamicThreshold"]

import math
from typing import Any

from torch import Tensor

from ..arguments import check_arguments
from ..laws.operators import rows
from ..laws.vectors import as_vectors
from ..models.score import ScoreModel
from .base import CleanState


class Clipped(CleanState):
    """Static thresholding: a score model whose predicted clean data are clipped to ``[low, high]``, the range of the data.

    Used since J. Ho, A. Jain and P. Abbeel, *Denoising diffusion probabilistic models*, 2020, arXiv:2006.11239; named in
    C. Saharia et al., *Photorealistic text-to-image diffusion models with deep language understanding* (Imagen), 2022,
    arXiv:2205.11487. To clip guided predictions, wrap the guided model.

    Parameters
    ----------
    model
        A score model of a linear process.
    low, high
        The range of the data; one end may be infinite.

    Raises
    ------
    ValueError
        If ``low < high`` does not hold.

    Examples
    --------
    >>> import sdegen
    >>> model = Clipped(sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring()), -1, 1)
    >>> sdegen.sample(model, 100, seed=0).abs().max().item()
    1.0
    """

    @check_arguments
    def __init__(self, model: ScoreModel, low: float, high: float) -> None:
        super().__init__(model)
        self.low, self.high = _range(low, high)

    def estimate(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return ``clip(x_0, low, high)`` and the noise consistent with it."""
        x_0, eps = self.model.estimate(x, t, **cond)
        units = self.sde.units
        low, high = (units.standardise(x_0.new_tensor(v)) for v in (self.low, self.high))
        return self._restated(t, x_0, eps, self.sde.extract(x_0).clamp(low, high))


class DynamicThreshold(CleanState):
    """Dynamic thresholding: a score model whose predicted clean data are clipped at a quantile of their own, then scaled
    into ``[low, high]``.

    With the middle ``c = (low + high) / 2`` of the range and half its width ``h``, in each sample
    ``x_0' = c + h clip((x_0 − c) / s, −1, 1)``, where `s` is the quantile of ``|x_0 − c|`` and at least `h`. Numbers that are
    pushed far out, as by guidance, then do not pile up at the ends. C. Saharia et al., *Photorealistic text-to-image diffusion
    models with deep language understanding* (Imagen), 2022, arXiv:2205.11487, whose range is [−1, 1].

    Parameters
    ----------
    model
        A score model of a linear process.
    low, high
        The range of the data.
    quantile
        The share of a sample's numbers, in (0, 1], that do not exceed `s`: `s` is the least of the ``|x_0 − c|`` for which this
        holds.

    Raises
    ------
    ValueError
        If the range is not finite or out of order, or the quantile not in (0, 1].
    """

    @check_arguments
    def __init__(self, model: ScoreModel, low: float, high: float, quantile: float = 0.995) -> None:
        super().__init__(model)
        self.low, self.high = _range(low, high)
        if math.isinf(self.high - self.low):
            raise ValueError(f"low = {low:g}, high = {high:g}; give a finite range, or use Clipped.")
        if not 0 < quantile <= 1:
            raise ValueError(f"quantile = {quantile}; give a part of the sample's numbers in (0, 1], such as 0.995.")
        self.quantile = quantile

    def estimate(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return the thresholded clean state and the noise consistent with it."""
        x_0, eps = self.model.estimate(x, t, **cond)
        middle, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        centred = self.sde.project(x_0) - middle
        size = as_vectors(centred).abs()
        k = max(1, math.ceil(self.quantile * size.shape[1] - 1e-9))  # a whole product may be rounded up
        s = rows(size.kthvalue(k, 1).values.clamp_min(half), centred)
        data = middle + half * (centred / s).clamp(-1, 1)
        return self._restated(t, x_0, eps, self.sde.standardise(data))


def _range(low: float, high: float) -> tuple[float, float]:
    """Return the ends of a range as numbers; raise a ValueError if they are not in order."""
    if not low < high:
        raise ValueError(
            f"low = {low:g}, high = {high:g}; give the range of the data in increasing order, such as -1, 1."
        )
    return float(low), float(high)
