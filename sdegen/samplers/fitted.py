"""A multistep sampler with fitted times and weights: the result of `fitting.fit_solver`."""

from __future__ import annotations

__all__ = ["Fitted", "multiplied"]

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_tensor
from ..models.score import ScoreModel
from ..processes.base import SDE
from ..processes.grids import Given
from .clocks import angle, share
from .exponential import Pieces
from .exponential_sde import ExponentialSDE
from .multistep import Multistep, MultistepStep, Updates
from .references import Reference


class Fitted(ExponentialSDE):
    """A sampler with fitted times, whose weights are multiplied by fitted factors: without noise it is `Multistep` with a
    corrector, with noise `ExponentialSDE` without one.

    Parameters
    ----------
    stops
        The times at which it stops, decreasing; a last move to the posterior mean starts at the last of them.
    factors
        Factors on the weights, ``(moves, order + 1)``, in the order in which moves and corrections are made; 1 leaves a weight as
        it is.
    order
        Order of the method.
    denoise
        Whether it was fitted for ``final="denoise"``.
    reference, eta
        As for `ExponentialSDE`.
    noises
        Factors on the noise of the steps, ``(steps,)``; 1 by default.

    Raises
    ------
    ValueError
        If factors on noise are given and ``eta = 0``; in a run with another ``final``, or at other times, than the solver was
        fitted for, as inside another sampler.
    """

    also_saved = ("error", "default_error")
    error: float | None = None
    default_error: float | None = None

    @check_arguments
    def __init__(
        self,
        stops: Tensor,
        factors: Tensor,
        order: int,
        denoise: bool,
        reference: Reference | None = None,
        eta: float = 0.0,
        noises: Tensor | None = None,
    ) -> None:
        check_tensor("stops", stops, ndim=1), check_tensor("factors", factors, shape=(None, order + 1))
        if noises is not None:
            check_tensor("noises", noises, shape=(len(stops) - 1,), hint=", a factor for each step")
            if not eta:
                raise ValueError("noises has factors on the noise of steps, and eta = 0 draws none; leave noises out.")
        steps = max(1, len(stops) - (not denoise))
        clock = angle if eta else share
        super().__init__(steps, Given(stops), order, eta, clock, reference, corrector=not eta)
        self.stops, self.factors, self.denoise, self.noises = stops, factors, denoise, noises
        self.convergence_order = None  # factors are fitted to one number of steps

    def times(self, sde: SDE, denoise: bool) -> Tensor:
        """Return the fitted times."""
        if denoise != self.denoise:
            mode = "denoise" if self.denoise else "sample"
            raise ValueError(f'this solver was fitted for final="{mode}"; sample with that, or fit another.')
        return self._grid(sde)(sde, len(self.stops))

    def pieces(self, model: ScoreModel) -> Pieces:
        """Return the object that forms the coefficients for a model; without noise as for `Multistep`."""
        return super().pieces(model) if self.eta else Multistep.pieces(self, model)

    def plan(self, model: ScoreModel, times: Tensor) -> list[MultistepStep]:
        """Plan the weights and the noise, multiplied by the fitted factors.

        Raises
        ------
        ValueError
            If the times are not those that the factors were fitted to.
        """
        own = self.stops.to(times)
        if times.shape != own.shape or not torch.allclose(times, own, rtol=1e-6, atol=0):
            raise ValueError(
                f"this solver was fitted to {len(own)} times from {own[0].item():.6g} to {own[-1].item():.6g} and is asked "
                f"for {len(times)} from {times[0].item():.6g} to {times[-1].item():.6g}; give a sampler without fitted factors "
                "there, such as Multistep."
            )
        return multiplied(self.updates(model, times), self.factors, self.noises).merged().steps()


def multiplied(updates: Updates, factors: Tensor, noises: Tensor | None = None) -> Updates:
    """Return updates with weights multiplied by `factors`, a row for every move and correction, and noise by `noises`, if
    given.
    """
    n, corrected, fresh = len(updates.restarts), None, updates.fresh
    moves, apart = (2 * n - 1, 2) if updates.moves.corrections else (n, 1)
    if len(factors) != moves:
        raise ValueError(f"factors has {len(factors)} rows for {moves} moves; give one for each.")
    if noises is not None:
        fresh = [c and c._replace(root=c.root * factor) for c, factor in zip(fresh, noises, strict=True)]
    if updates.moves.corrections:
        corrected = torch.cat([factors[1:moves:2], factors[:1]])  # the last state is not corrected
    return updates._replace(moves=updates.moves.multiplied(factors[:moves:apart], corrected), fresh=fresh)
