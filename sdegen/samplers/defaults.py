"""The default sampler, chosen from the model's process and the moments of its data."""

from __future__ import annotations

__all__ = ["choose_end", "default", "draws_images"]

from ..arguments import check_arguments
from ..checks import check_count
from ..models.score import ScoreModel
from ..processes.coordinates import is_by_coordinate
from ..processes.grids import Angle, Quadratic
from ..processes.linear import is_linear
from ..processes.scalar import is_scalar
from .base import Sampler
from .clocks import share
from .euler import EulerMaruyama
from .even_error import EvenError
from .exponential import follows_moments
from .exponential_sde import ExponentialSDE
from .multistep import Multistep
from .ode import Heun, ProbabilityFlow
from .profiles import known_profile
from .references import Matched, MatchedConditional, Normal, PointMass, Reference
from .secant_sde import SecantSDE
from .trials import TURN, WIDER, choose_solver, level, make_by_moments, summarise_law

USUAL = 20  # steps, where the tables compare solvers
LONG = 500  # steps of a method whose error falls as one over them: the only one that asks nothing of the process
MENDS = 0.8  # of the noise of the reversed process: ten evaluations then come near the FID of a thousand steps of DDPM
ROOM = 10  # steps under conditions, from which on order three has room around the Gaussian of their moments
NOISE_FROM = 6  # steps: with fewer the solver's own error is the larger one


@check_arguments
def default(model: ScoreModel, steps: int | None = None, eta: float | None = None) -> Sampler:
    """Return the sampler that `sample` uses if none is given, with 20 steps unless told otherwise.

    On scalar processes the default follows the probability flow by `Multistep`. Its grid, order and reference are chosen

    - by trials, in up to twelve steps, or up to sixty of a true score: some solvers are run on some paths, and the one that came
      nearest to the model's own flow is taken. They differ in their grid, of equal parts of the measured error (`EvenError`) or
      around a level of noise that is guessed (`Angle`), in their order, and in their reference, the Gaussian of the data's
      moments or a point mass. In up to twelve steps the stops of the nearest solver are then moved, if paths held back end nearer
      to the flow with the moved stops. `fit` makes these trials (``model.profile``); for a true score the first call with that
      number of steps makes them;
    - by the profile, in more steps or if no solvers were tried: the grid of equal parts of the error, around that Gaussian. The
      order grows with the steps, as high orders need room: one up to two steps, two up to six, three up to twelve, and beyond
      three with a corrector, which makes it four. Data that are points at the last noise are followed around a point mass;
    - by the moments, if no profile is known: ``Angle(scale, power=0.5)`` with ``scale = 0.4 √tr(Sigma) / D^(1/6)``, where
      ``D = tr(Sigma)² / tr(Sigma²)`` counts the dimensions. The order is two up to eight steps, by extrapolation up to five
      and then by a corrector, three up to twelve and four beyond, both with a corrector.

    Under conditions or measurements the law of the samples is narrower than the data's moments say. A network that was trained
    with conditions has a profile of the law under conditions, which tells its variance: the reference is then the Gaussian of
    that variance around zero. Otherwise, but for networks of images, the reference is the Gaussian of the moments under the
    conditions if these are known (`ScoreModel.conditional_moments`), as under linear measurements, and else a point mass. The
    grid is the one by the moments with 1.5 times the scale, and the order two up to twelve steps and three beyond, with a
    corrector. From ten steps on, around known moments, the grid is ``Angle(scale, power=0.75)`` and the order three.

    With noise (`eta`) the default is `SecantSDE`, on the grid of equal parts of the root of the error, or on
    ``Angle(scale, power=0.75)`` with half that scale if no profile is known. Under conditions it is `ExponentialSDE` on
    ``Angle(scale, power=0.5)``: around the Gaussian of the moments under the conditions, of order two up to eight steps and three
    beyond; or around a point mass, of order two, if these moments, or those of the data, are not known.

    A trained network of images errs by more than these methods do, and noise put back at every step repairs part of its error.
    So for such a network, on scalar processes and processes by coordinate, the default from six steps on is `ExponentialSDE`
    around a point mass, of order two, on ``Angle(scale, power=0.5)`` with 0.8 of the noise of the reversed process.

    For other linear processes the default is `Multistep` with a corrector, of order two up to nine steps and three beyond, on an
    `Angle` grid, from 30 steps on with a part that is even in the time. If the Gaussian is not known, or takes matrices over more
    than 32 numbers, the reference is a point mass and the order grows later. With noise the default is `ExponentialSDE` around
    the same references.

    For nonlinear processes the default is `EulerMaruyama` in 500 steps. In coordinates without bounds it is the probability flow,
    by adaptive steps unless their number is given.

    Grids end at ``model.end``, or else at ``t_min``. For a true score of data narrower than 1 they end where the noise is as
    small beside the data as it is at ``t_min`` beside data of spread 1. The reasons for all this are in docs/choose_a_sampler.md.

    Parameters
    ----------
    model
        Any score model; for a run with conditions, the model under these, ``Conditioned(model, **cond)``.
    steps
        Network evaluations.
    eta
        The noise put back, on linear processes: 0 for the probability flow, 1 for the reversed process; by default as said above.

    Raises
    ------
    ValueError
        If `steps` is not positive, or `eta` is not 0 on a nonlinear process: choose a sampler there, such as `EulerMaruyama`.
    """
    if steps is not None:
        check_count("steps", steps)
    if not is_linear(model.sde):
        if eta:
            raise ValueError(
                f"eta = {eta} on {type(model.sde).__name__}: the default adds no noise there; choose a sampler."
            )
        if model.sde.coordinates is not None:
            # The noise of an explicit step is without limit where coordinates bring an end of the domain to infinity.
            return ProbabilityFlow() if steps is None else Heun(max(1, steps // 2))
        return EulerMaruyama(LONG if steps is None else steps, Quadratic(end=choose_end(model)))
    steps = USUAL if steps is None else steps
    end = choose_end(model)
    if eta is None:
        mended = is_scalar(model.sde) or is_by_coordinate(model.sde)
        eta = MENDS * (mended and steps >= NOISE_FROM and draws_images(model))
    if eta and draws_images(model) and is_by_coordinate(model.sde):
        grid = Angle(end=end, scale=level(model.state_moments()), power=0.5)
        return ExponentialSDE(steps, grid, eta=eta, reference=PointMass())
    if not is_scalar(model.sde):
        return _of_many_angles(model, steps, eta, end)
    conditioned = model.conditioned
    known = conditioned and not draws_images(model) and model.conditional_moments() is not None
    scale = None if model.moments is None else level(model.state_moments())
    if eta:
        grid = Angle(end=end, scale=scale or 1.0, power=0.5)
        if not conditioned and scale is not None and not draws_images(model):
            return _of_secants(model, steps, eta, end)
        if not known:
            return ExponentialSDE(steps, grid, eta=eta, reference=PointMass())
        # Chosen as below, and on mixtures of uneven weights and widths in 2 to 16 dimensions.
        return ExponentialSDE(steps, grid, 2 if steps < 9 else 3, eta, reference=MatchedConditional())
    profile = model.profile if conditioned or draws_images(model) else known_profile(model, end, steps)
    if profile is not None and not draws_images(model) and bool(profile.given) == conditioned:
        return choose_solver(summarise_law(model, profile, end), steps)
    if conditioned and not draws_images(model):
        # The law of the samples is narrower than the data's moments say, and the flow of these leaves it three quarters of its
        # width at ten steps. Chosen on exact posteriors of mixtures in 2 to 16 dimensions, by distance and width.
        if known and steps >= ROOM:
            grid, order = Angle(end=end, scale=scale or TURN, power=0.75), 3
        else:
            grid, order = Angle(end=end, scale=WIDER * (scale or TURN), power=0.5), 2 if steps < 13 else 3
        return Multistep(steps, grid, order, MatchedConditional(), share, corrector=True)
    return make_by_moments(steps, end, scale, Normal() if scale is None else None)


def _of_secants(model: ScoreModel, steps: int, eta: float, end: float | None) -> SecantSDE:
    """Return the default with noise for a law whose moments are known, on the grid of its profile if there is one."""
    profile = known_profile(model, end, None)
    if profile is None or bool(profile.given):
        return SecantSDE(steps, Angle(end=end, scale=0.5 * level(model.state_moments()), power=0.75), eta)
    return SecantSDE(steps, EvenError(profile, end=end, power=0.5), eta)


def _of_many_angles(model: ScoreModel, steps: int, eta: float, end: float | None) -> Multistep:
    """Return the default for a linear process that is not scalar."""
    spread = 1.0 if model.moments is None else float(model.state_moments().variance()) ** 0.5
    # The noise of matrix processes grows like a power of t: high orders want steps even in both (`Angle`).
    even = {"power": 2 / 3, "time": 0.3} if steps >= 30 else {}
    grid = Angle(end=end, scale=spread if 0 < spread < 1 else 1.0, **even)
    around: Reference
    if draws_images(model) or not follows_moments(model) or model.conditional_moments() is None:
        around, order = PointMass(), 1 if steps < 13 else 2 if steps < 30 else 3  # more is left to extrapolate
    else:  # chosen on mixtures in 2 to 16 dimensions, of every kind of process
        around, order = MatchedConditional() if model.conditioned else Matched(), 2 if steps < 10 else 3
    if eta:
        return ExponentialSDE(steps, grid, 2 if steps < 9 else 3, eta, reference=around)
    return Multistep(steps, grid, order, around, share, corrector=True)


def draws_images(model: ScoreModel) -> bool:
    """Tell whether a model is a network, whose score has errors, and its data are images ``(C, H, W)``."""
    return model.like is not None and model.moments is not None and model.moments.mean.ndim == 3


def choose_end(model: ScoreModel) -> float | None:
    """Return the time at which grids end by default: the model's own, or None for the process's.

    A true score is known at every time. For data narrower than 1, in the units of the process, grids go on until the noise is as
    small beside the data as it is at ``t_min`` beside data of spread 1, or to 0. On nonlinear processes this time is ``t_min``
    times the variance of the data, since the variance of the noise begins in proportion to the time.
    """
    if model.end is not None or model.like is not None or model.moments is None:
        return model.end
    narrow, sde = float(model.state_moments().variance()), model.sde
    if not 0 < narrow < 1:
        return None
    if not is_linear(sde):  # where states have bounds, t_min is chosen by the noise
        return sde.t_min * narrow if sde.rescalable and sde.coordinates is None else None
    ratio = sde.snr(sde.t_min).item() / narrow
    return 0.0 if ratio >= sde.snr(0.0) else sde.time(ratio).item()
