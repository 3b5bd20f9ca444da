"""The default sampler, chosen from the model's process and the moments of its data."""

from __future__ import annotations

__all__ = ["along", "default", "draws_images", "level", "nearest"]

from ..arguments import check_arguments
from ..laws.mixtures import Moments
from ..laws.profiles import Profile
from ..models.score import ScoreModel
from ..processes.coordinates import is_by_coordinate
from ..processes.grids import Angle
from ..processes.linear import as_linear, is_linear
from ..processes.scalar import is_scalar
from .base import Sampler
from .clocks import angle, log_ratio, share
from .euler import EulerMaruyama
from .exponential import follows_moments
from .exponential_sde import ExponentialSDE
from .multistep import Multistep
from .ode import Heun, ProbabilityFlow
from .profiles import EvenError, known_profile
from .references import Matched, MatchedConditional, Normal, PointMass, Reference

USUAL = 20  # steps, where the tables compare solvers
LONG = 500  # steps of a method whose error falls as one over them: the only one that asks nothing of the process
MENDS = 0.8  # of the reversed process's noise: ten evaluations then come near the FID of a thousand steps of DDPM
NOISE_FROM = 6  # steps: with fewer the solver's own error is the larger one
TURN = 0.4  # times the spread of the data: at about this level of noise samples decide what they become
WIDER = 1.5  # times the scale, under conditions
POINTS = 0.5  # of the posterior variance of data that are smooth: below, they are points at that noise
LEAST = 1e-3  # the level for data that are one point


@check_arguments
def default(model: ScoreModel, steps: int | None = None, eta: float | None = None) -> Sampler:
    """Return the sampler that `sample` uses if none is given, with 20 steps unless told otherwise.

    For scalar processes `Multistep` around the Gaussian of the data's own moments, on a grid whose steps have equal parts of the
    error (`EvenError`): at which levels of noise samples are decided, `fit` has measured (``model.profile``), and of a true score
    the first call measures it. High orders need room, so the order grows with the steps: two up to six, three up to twelve, four
    beyond, the last with a corrector. Data that are points at the last noise are followed around a point mass.

    Where no profile is known the grid is ``Angle(scale, power=0.5)`` with ``scale = 0.4 √tr(Sigma) / D^(1/6)``, where
    ``D = tr(Sigma)² / tr(Sigma²)`` counts the dimensions, a guess of that level from the moments, and the order is two up to
    eight, by extrapolation up to five and then by a corrector, three up to twelve, four beyond, both with a corrector.

    Under conditions or measurements the law of the samples is narrower than those moments. A network that was trained with
    conditions has a profile of the law under them, and with it its variance: there the reference is the Gaussian of that variance
    around zero. Elsewhere, but for networks of images, it is `Multistep` on the second grid with 1.5 times the scale, of order
    two up to twelve steps and three beyond, with a corrector: around the Gaussian of the moments under the conditions where these
    are known (`ScoreModel.conditional_moments`), as under linear measurements, and around a point mass where not.

    With noise it is `ExponentialSDE` around these Gaussians on that second grid, of order two up to eight steps and three beyond.

    A trained network of images errs by more than these methods do, and noise put back at every step repairs part of it: there,
    from six steps on, it is `ExponentialSDE` around a point mass, of order two, on that grid with 0.8 of the noise of the
    reversed process, on processes by coordinate too.

    For other linear processes the like of the first with a corrector, of order two up to nine steps and three beyond, from 30
    steps on with a part of the grid even in the time. Around a point mass, where the Gaussian is not known or takes matrices over
    more than 32 numbers, the order grows later. Euler–Maruyama in 500 steps for nonlinear ones, or in coordinates without bounds
    the probability flow, by adaptive steps unless their number is given. Grids end at ``model.end``, or as `nearest` says.
    Why: docs/choose_a_sampler.md.

    Parameters
    ----------
    model
        Any score model; for a run with conditions, the model under these, ``Conditioned(model, **cond)``.
    steps
        Network evaluations.
    eta
        Noise put back, on linear processes: 0 for the probability flow, 1 for the reversed process; by default as said above.

    Raises
    ------
    ValueError
        If `eta` is not 0 on a nonlinear process: choose `ExponentialSDE` or `EulerMaruyama` there.
    """
    if not is_linear(model.sde):
        if eta:
            raise ValueError(
                f"eta = {eta} on {type(model.sde).__name__}: the default adds no noise there; choose a sampler."
            )
        if model.sde.coordinates is not None:
            # The noise of an explicit step is without limit where coordinates bring an end of the domain to infinity.
            return ProbabilityFlow() if steps is None else Heun(max(1, steps // 2))
        return EulerMaruyama(LONG if steps is None else steps)
    steps = USUAL if steps is None else steps
    end = nearest(model)
    if eta is None:
        mended = is_scalar(model.sde) or is_by_coordinate(model.sde)
        eta = MENDS * (mended and steps >= NOISE_FROM and draws_images(model))
    if eta and draws_images(model) and is_by_coordinate(model.sde):
        grid = Angle(end=end, scale=level(model.state_moments()), power=0.5)
        return ExponentialSDE(steps, grid, eta=eta, reference=PointMass())
    plain = Multistep.default_grid(end=end)
    if not is_scalar(model.sde):
        return _of_many_angles(model, steps, eta, end)
    conditioned = model.conditioned
    known = conditioned and not draws_images(model) and model.conditional_moments() is not None
    if eta:
        scale = 1.0 if model.moments is None else level(model.state_moments())
        grid = Angle(end=end, scale=scale, power=0.5)
        if not known and (conditioned or model.moments is None or draws_images(model)):
            return ExponentialSDE(steps, grid, eta=eta, reference=PointMass())
        # Chosen as below, and on mixtures of uneven weights and widths in 2 to 16 dimensions.
        return ExponentialSDE(
            steps, grid, 2 if steps < 9 else 3, eta, reference=MatchedConditional() if known else None
        )
    profile = None if draws_images(model) else known_profile(model, end)
    if profile is not None and bool(profile.given) == conditioned:
        around = Normal(max(profile.variance(), LEAST**2)) if conditioned else None
        return along(profile, steps, end, around)
    if conditioned and not draws_images(model):
        # The law of the samples is narrower than the data's moments say, and the flow of these leaves it three quarters of its
        # width at ten steps. Chosen on exact posteriors of mixtures in 2 to 16 dimensions, by distance and width.
        scale = WIDER * (TURN if model.moments is None else level(model.state_moments()))
        grid = Angle(end=end, scale=scale, power=0.5)
        return Multistep(steps, grid, 2 if steps < 13 else 3, MatchedConditional(), share, corrector=True)
    # Chosen on exact scores of the ring and of mixtures in 8 and 64 dimensions: high orders extrapolate, and over a few long
    # steps that is worse than not to.
    order, corrector, clock, factor = (
        (2, False, share, 1.0) if steps < 6 else
        (1, True, angle, 1.0) if steps < 9 else
        (2, True, log_ratio, 0.85) if steps < 13 else  # the one place where this clock was better, in 64 dimensions
        (3, True, share, 1.0)
    )  # fmt: skip
    if model.moments is None:
        return Multistep(steps, plain, order, reference=Normal(), clock=clock, corrector=corrector)
    grid = Angle(end=end, scale=factor * level(model.state_moments()), power=0.5)
    return Multistep(steps, grid, order, clock=clock, corrector=corrector)


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


def along(profile: Profile, steps: int, end: float | None, around: Reference | None = None) -> Multistep:
    """Return the default for a law whose profile is known: `Multistep` on the grid of equal parts of the error.

    Around the data's Gaussian the order is two up to six steps, three up to twelve, and four beyond, where a corrector makes it
    of one of three. Data that are points where the run ends are followed around a point mass, which arrives at them.

    Parameters
    ----------
    profile
        Of the law.
    steps, end
        Of the grid.
    around
        The reference of data that are no points; the Gaussian of the moments by default.
    """
    grid = EvenError(profile, end=end)
    last = profile.log_ratios < profile.log_ratios[0] + 1  # less than e times the noise at the end
    if profile.widths[last].min() < POINTS:
        return Multistep(steps, grid, 2 if steps < 13 else 3, reference=PointMass(), clock=grid.clock, corrector=True)
    order, corrector, clock = (
        (2, False, log_ratio) if steps < 7 else
        (3, False, grid.clock) if steps < 13 else
        (3, True, share)
    )  # fmt: skip
    return Multistep(steps, grid, order, around, clock, corrector)


def draws_images(model: ScoreModel) -> bool:
    """Tell whether a model is a network, whose score has errors, and its data are images ``(C, H, W)``."""
    return model.like is not None and model.moments is not None and model.moments.mean.ndim == 3


def nearest(model: ScoreModel) -> float | None:
    """Return the time at which grids end by default: the model's own, or None for the process's.

    A true score is known at every time. For data narrower than 1, in the units of the process, grids go on to where the noise is
    as small beside them as it is at ``t_min`` beside data of spread 1, or to 0.
    """
    if model.end is not None or model.like is not None or model.moments is None:
        return model.end
    narrow, sde = float(model.state_moments().variance()), as_linear(model.sde, "; give it a sampler with its grid.")
    if not 0 < narrow < 1:
        return None
    ratio = sde.snr(sde.t_min).item() / narrow
    return 0.0 if ratio >= sde.snr(0.0) else sde.time(ratio).item()


def level(moments: Moments) -> float:
    """Return the noise level ``0.4 √tr(Sigma) / D^(1/6)`` around which the default grid takes most steps."""
    covariance = moments.covariance.double()
    trace = covariance.trace() if covariance.ndim == 2 else covariance.sum()
    dimensions = trace.square() / covariance.square().sum().clamp_min(1e-300)
    found = float(TURN * trace.sqrt() / dimensions.clamp_min(1) ** (1 / 6))
    return found if found > 0 else LEAST
