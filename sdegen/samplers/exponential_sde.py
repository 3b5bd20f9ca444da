"""Exponential multistep methods for the reversed SDE: `multistep` with noise."""

from __future__ import annotations

__all__ = ["ExponentialSDE"]

from ..arguments import check_arguments
from ..models.score import ScoreModel
from ..processes.grids import Grid
from .base import require_linear
from .clocks import Clock, angle
from .exponential import Pieces, plan_pieces
from .multistep import Multistep
from .references import PointMass, Reference


class ExponentialSDE(Multistep):
    """Exponential (stochastic) Adams methods for the reversed SDE at any noise level, with and without a corrector: one
    evaluation a step.

    The reversed process ``dx = [F x − ½ (1 + eta²) G Gᵀ score] dt + eta G dw`` of a Gaussian *reference* is solved in law, noise
    included. What the model says beyond it, `q`, is replaced by the polynomial in a clock through the evaluations at hand
    (`references`):

        x_s = C x_t + Σ_j W_j q_j + root z.

    So every step on data of the reference's law is exact in law, at every `eta`; without noise this is `Multistep`. Around a
    point mass ``q = E[x_0 | x]``, and at ``eta = 1`` `C` and `root` are those of the bridge ``q(x_s | x_t, x_0)``. Then order 1
    is `Ancestral`. Order 2 in `log_ratio` is SDE-DPM-Solver++(2M) with exact integrals (C. Lu et al., *DPM-Solver++: fast solver
    for guided sampling of diffusion probabilistic models*, 2022, arXiv:2211.01095). With `corrector` it is SA-Solver (S. Xue et
    al., *SA-Solver: stochastic Adams solver for fast sampling of diffusion models*, 2023, arXiv:2309.05019), but for the start,
    which keeps the order here as in `Multistep`. SEEDS (M. Gonzalez et al., 2023, arXiv:2305.14267) is of the same family.

    The order is the weak one, and with noise at most 2: for more, evaluations within a step would have to see the noise of that
    step. Order 3 and a corrector still make errors smaller.

    Parameters
    ----------
    steps, grid
        As for every `Sampler`.
    order
        1, 2 or 3.
    eta
        Noise level of the reversed SDE: 1 its own, 0 the probability flow.
    clock
        The variable of the interpolating polynomials: `angle`, `share`, `log_ratio`, or a function of the angle.
    reference
        The law whose reversed process is exact; by default as for `Multistep`, but a point mass under conditions and for models
        whose moments are not known.
    corrector
        Whether to correct every state with the evaluation made there, with its noise unchanged.

    Raises
    ------
    ValueError
        If `order` is not 1, 2 or 3, or `eta` negative; in a run, if the clock of a step of a higher order is infinite, or as for
        `Multistep`.
    TypeError
        In a run, if the process is not linear.
    """

    @check_arguments
    def __init__(
        self,
        steps: int = 20,
        grid: Grid | None = None,
        order: int = 2,
        eta: float = 1.0,
        clock: Clock = angle,
        reference: Reference | None = None,
        corrector: bool = False,
    ) -> None:
        if order not in (1, 2, 3):
            raise ValueError(
                f"order = {order}; ExponentialSDE has order 1, 2 or 3, for more use Multistep without noise."
            )
        if not eta >= 0:
            raise ValueError(f"eta = {eta}; the noise level of a reversed process is at least 0.")
        super().__init__(steps, grid, order, reference, clock, corrector)
        self.eta = eta
        if eta:
            self.convergence_order = min(order + corrector, 2)

    def pieces(self, model: ScoreModel) -> Pieces:
        """Return the object that forms the coefficients, by default around a point mass if the samples' moments are not known."""
        unknown = self.reference is None and (model.conditioned or model.moments is None)
        reference = PointMass() if unknown else self.reference
        lean = self.eta / (1 + self.eta) if self.order > 1 else 0.0
        return plan_pieces(require_linear(self, model.sde), model, reference, self.clock, self.eta, lean)
