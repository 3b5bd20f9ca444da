"""Markov chains on a grid that follow a diffusion: rates between cells, and the density after a step of time.

Rates are positive, and what leaves a cell enters another: densities stay positive, but for the errors of steps that are too long,
and mass is kept to rounding. Rates and steps are of order two.
"""

from __future__ import annotations

__all__ = ["GridChain", "FluxTerms", "added_noise", "rate_matrix"]

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .cells import Cells

# Returns ``D = ½ G Gᵀ``, (N, d, d), and ``b = f − ½ ∇·(G Gᵀ)``, (N, d), at points (N, d).
FluxTerms = Callable[[Tensor], tuple[Tensor, Tensor]]

# The diagonal of Alexander's tableau, with which modes that decay within a step are forgotten.
GAMMA = 1 - math.sqrt(0.5)
FURTHEST = 12  # cells that a pair may lie apart, where noise is far stronger in one direction than across it
NOTHING = 1e-13  # of the trace of D: a number below it is rounding


def rate_matrix(cells: Cells, field: FluxTerms) -> Any:
    """Return the rates of a chain that follows a diffusion, a sparse matrix whose columns sum to zero: ``dp/dt = L p``.

    The flux ``b p − D ∇p``, with ``D = ½ G Gᵀ`` and ``b = f − ½ ∇·(G Gᵀ)``, is split into fluxes between pairs of cells. The
    matrix is written as ``D = Σ λ e eᵀ``, with positive numbers `λ` and offsets `e` of whole cells (E. Selling, *Über die binären
    und ternären quadratischen Formen*, 1874). Then ``b = Σ λ P e`` with ``P = e · D⁻¹ b``, and the flux along `e` is
    exponentially fitted: ``λ [B(−P) p_here − B(P) p_there]``, ``B(z) = z / (e^z − 1)`` (D. Scharfetter and H. Gummel,
    *Large-signal analysis of a silicon Read diode oscillator*, 1969).

    Parameters
    ----------
    cells
        The grid.
    field
        Returns `D` and `b` at points.

    Raises
    ------
    ValueError
        If there is no noise somewhere, or none in some direction.
    """
    from scipy import sparse  # loads on use

    rows, columns, rates = [], [], []
    for offset in _offsets(cells, field):
        here, there, middle = cells.neighbours(offset)
        D, b = _in_cells(cells, field, middle)
        e = offset.double()
        P = b[:, 0] / D[:, 0, 0] if len(e) == 1 else torch.linalg.solve(D, b) @ e
        share = _share(D, offset)
        forth, back = share * _bernoulli(-P), share * _bernoulli(P)
        rows += [there, here, here, there]
        columns += [here, here, there, there]
        rates += [forth, -forth, back, -back]
    size = len(cells.centres)
    entries = torch.cat(rates).numpy(), (torch.cat(rows).numpy(), torch.cat(columns).numpy())
    return sparse.csc_matrix(entries, shape=(size, size))


def added_noise(cells: Cells, field: FluxTerms, p: Tensor) -> float:
    """Return the noise that the fitted fluxes add, as a share of the process's own noise: the mean over each density of
    ``tr(D⁻¹ Σ λ (½ P coth ½ P − 1) e eᵀ)``, and of these means the largest.

    Fluxes add noise where the drift across a cell is strong for the noise of the process.

    Parameters
    ----------
    cells, field
        As for `rate_matrix`.
    p
        The densities, ``(cells, K)``.
    """
    D, b = _in_cells(cells, field, cells.centres)
    offsets, shares = _selling(D) if D.shape[1] == 2 else (torch.ones(len(D), 1, 1), D[:, 0])
    e, inverse = offsets.double(), torch.linalg.inv(D)
    half = 0.5 * torch.einsum("nid,nde,ne->ni", e, inverse, b)
    more = torch.where(half.abs() < 1e-4, half.square() / 3, half / half.tanh() - 1)
    part = torch.einsum("ni,nid,nde,nie->n", shares * more, e, inverse, e)
    return float(((part @ p) / p.sum(0)).max())


class GridChain:
    """A chain on a grid that follows a diffusion, step by step: R. Alexander's two-stage method, of order two and with no
    memory of what is stiff (*Diagonally implicit Runge–Kutta methods for stiff O.D.E.'s*, 1977), with rates at mid-step.

    Parameters
    ----------
    cells
        The grid.
    field
        Returns the field at a time.
    still
        Whether the field is the same at all times. Rates are then formed once, and equal steps are solved by one factorisation.
    """

    def __init__(self, cells: Cells, field: Callable[[Tensor], FluxTerms], still: bool) -> None:
        self.cells, self.field, self.still = cells, field, still
        self._rates: Any = None
        self._solve: Callable[[Any], Any] = np.asarray
        self._length = math.nan

    def advance(self, p: Tensor, t: Tensor, h: float) -> Tensor:
        """Return densities ``(cells, K)`` at ``t + h``, given those at `t`."""
        if self._rates is None or not self.still:
            self._rates, self._length = rate_matrix(self.cells, self.field(t + 0.5 * h)), math.nan
        if not math.isclose(h, self._length, rel_tol=1e-9):
            self._solve, self._length = _factorise(self._rates, h), h
        once = self._solve(p.numpy())
        moved: np.ndarray[Any, Any] = (1 + math.sqrt(2)) * self._solve(once) - math.sqrt(2) * once
        return torch.from_numpy(moved)


def _factorise(L: Any, h: float) -> Callable[[Any], Any]:
    """Return a function that solves the equations of one stage, ``(1 − GAMMA h L) p = q``."""
    from scipy import sparse  # loads on use
    from scipy.sparse import linalg

    stage = sparse.identity(L.shape[0], format="csc") - GAMMA * h * L
    options = {"SymmetricMode": True}
    solve: Callable[[Any], Any] = linalg.splu(stage, "MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options).solve
    return solve


def _in_cells(cells: Cells, field: FluxTerms, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return `D` and `b` at points, with lengths counted in cells.

    Raises
    ------
    ValueError
        If there is no noise at a point, or none in some direction.
    """
    D, b = field(x)
    w = cells.width
    D = D / (w[:, None] * w)
    least = D[:, 0, 0] if len(w) == 1 else torch.linalg.eigvalsh(D)[:, 0]
    bad = ~(least > NOTHING * D.diagonal(dim1=1, dim2=2).sum(1))
    if bad.any():
        place = ", ".join(f"{v:.6g}" for v in x[bad][0].tolist())
        raise ValueError(
            f"there is no noise at {place}, or none in some direction; give the process in coordinates in which there is, "
            "processes.Transformed(sde, coordinates)."
        )
    return D, b / w


def _offsets(cells: Cells, field: FluxTerms) -> list[Tensor]:
    """Return the offsets `e` that ``D = Σ λ e eᵀ`` needs somewhere on the grid.

    Raises
    ------
    ValueError
        If an offset is longer than `FURTHEST`.
    """
    if len(cells.axes) == 1:
        return [torch.tensor([1])]
    D, _ = _in_cells(cells, field, cells.centres)
    offsets, shares = _selling(D)
    used = offsets[shares > NOTHING * D.diagonal(dim1=1, dim2=2).sum(1)[:, None]].unique(dim=0)
    if used.abs().max() > FURTHEST:
        raise ValueError(
            "the noise is far stronger in one direction than across it, which no grid along the axes resolves; give the process "
            "in coordinates in which it is not, such as coordinates.Whitening."
        )
    return list(used)


def _share(D: Tensor, offset: Tensor) -> Tensor:
    """Return the factor `λ` of ``e eᵀ``, with an offset `e`, in ``D = Σ λ e eᵀ``, ``(N,)``: 0 where `D` does not need it."""
    if len(offset) == 1:
        return D[:, 0, 0]
    offsets, shares = _selling(D)
    return (shares * (offsets == offset).all(-1)).sum(1)


def _selling(D: Tensor) -> tuple[Tensor, Tensor]:
    """Return three offsets `e` ``(N, 3, 2)`` and numbers `λ` ``(N, 3)``, at least 0, with ``D = Σ λ e eᵀ``, for each matrix `D`
    ``(N, 2, 2)``.
    """
    # Selling's reduction of three vectors of sum zero: two with a positive product ``v · D w`` are replaced until no product is
    # positive. Then −λ is the product of two of them, and e is the third, turned by a right angle.
    base = torch.tensor([[-1, -1], [1, 0], [0, 1]]).repeat(len(D), 1, 1)
    while True:
        products = torch.stack(
            [
                torch.einsum("ni,nij,nj->n", base[:, i].double(), D, base[:, j].double())
                for i, j in ((1, 2), (2, 0), (0, 1))
            ],
            1,
        )
        worst = products.argmax(1)
        turn = products.gather(1, worst[:, None])[:, 0] > NOTHING * D.diagonal(dim1=1, dim2=2).sum(1)
        if not turn.any():
            break
        rows = turn.nonzero()[:, 0]
        k = worst[rows]
        i, j = (k + 1) % 3, (k + 2) % 3
        v, w = base[rows, i], base[rows, j]
        base[rows, i], base[rows, j], base[rows, k] = -v, w, v - w
    across = torch.stack([-base[..., 1], base[..., 0]], -1)
    negative = (across[..., 0] < 0) | ((across[..., 0] == 0) & (across[..., 1] < 0))
    return torch.where(negative[..., None], -across, across), (-products).clamp_min(0)


def _bernoulli(z: Tensor) -> Tensor:
    """Return ``z / (e^z − 1)``."""
    small = z.abs() < 1e-4
    safe = torch.where(small, 1.0, z)
    return torch.where(small, 1 - 0.5 * z + z.square() / 12, safe / torch.expm1(safe))
