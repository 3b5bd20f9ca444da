"""`fit_solver`, which fits a solver to a model's own samples, for sampling with few evaluations."""

from __future__ import annotations

__all__ = ["fit_solver"]

from collections.abc import Callable
from typing import Any

import torch
from tqdm import tqdm

from ..arguments import check_arguments
from ..data.parts import has_rows
from ..models.modes import evaluating
from ..models.named import read_conditions
from ..models.score import ScoreModel
from ..processes.scalar import as_scalar
from ..progress import should_show
from .base import Sampler
from .law_search import LawSearch
from .search import Search
from .start import start


@check_arguments
def fit_solver(
    model: ScoreModel,
    *,
    steps: int = 6,
    eta: float = 0.0,
    paths: int | None = None,
    rounds: int = 40,
    seed: int = 0,
    final: str = "denoise",
    end: float | None = None,
    progress: bool | None = None,
    conditions: Callable[[int, torch.Generator], dict[str, Any]] | None = None,
    **cond: Any,
) -> Sampler:
    """Fit a solver of `steps` evaluations to a model of a scalar process, and return it.

    Without noise its paths are fitted to those of the probability flow. With noise (`eta`) the aim is the law: its samples are
    fitted to those of a fine run with the same Brownian paths, by the sliced Wasserstein distance. Single paths cannot be fitted,
    since a step does not see the noise within it.

    For a conditional or guided model the paths are under conditions, which are given or drawn. If they are drawn, the paths held
    back are under conditions that nothing was fitted under.

    Parameters
    ----------
    model
        Any score model of a scalar process whose data's moments are known.
    steps
        Evaluations of the network, the last denoising included.
    eta
        Noise level of the reversed process: 0 for the probability flow.
    paths
        The number of trajectories of the teacher: half to fit, a quarter to choose by, a quarter held back. By default 512, or
        8,192 with noise; fewer if states have more than 128 numbers, or 8 with noise, but at least 64.
    rounds
        The largest number of Gauss–Newton steps. A step costs about ``2 steps²`` evaluations for each path that is fitted to.
    seed
        Seed of the paths' starting states.
    final, end
        `final` as in `sample`, and the last time; by default that of the default sampler.
    progress, cond
        As in `sample`; conditions with rows have one for every path.
    conditions
        Draws conditions: ``conditions(n, generator)`` returns those of `n` paths by name, with a row for each.

    Returns
    -------
    Sampler
        A `Fitted` solver. Its attributes ``error`` and ``default_error`` are the distances of the fitted and the default sampler
        from the teacher on the paths held back: root mean squares in which each distance is cut at ten medians, or with noise
        sliced Wasserstein distances. If fitting did not help, the default with as much noise, and a warning.

    Raises
    ------
    TypeError, ValueError
        If the process is not scalar, the moments are not known, a number is out of range, a condition is both given and drawn, or
        with noise a condition has a row for each path, so that the samples would not have one law.

    Examples
    --------
    >>> import sdegen
    >>> ring = sdegen.data.gaussian_ring()
    >>> modes = [sdegen.GaussianMixture(torch.ones(1), m[None], v[None]) for m, v in zip(ring.means, ring.covariances)]
    >>> guided = sdegen.guidance.ClassifierFree(sdegen.ExactConditional(sdegen.VP(), modes, ring), scale=2.0)
    >>> labels = lambda n, generator: {"label": torch.randint(8, (n,), generator=generator)}
    >>> solver = fit_solver(guided, steps=5, paths=64, rounds=2, conditions=labels)
    >>> solver.error < 0.8 * solver.default_error
    True
    """
    as_scalar(model.sde, ", and solvers are fitted to such processes; use the default sampler.")
    if final not in ("denoise", "sample"):
        raise ValueError(f'final = {final!r}; expected "denoise" or "sample".')
    numbers = model.require_moments().mean.numel()
    if paths is None:
        paths = max(64, min(8192 if eta else 512, 65_536 // numbers))
    if paths < 16 or steps < 2 or rounds < 0 or not 0 <= eta < float("inf"):
        raise ValueError(
            f"paths = {paths}, steps = {steps}, rounds = {rounds}, eta = {eta}; at least 16, 2, 0 and 0 are needed."
        )
    if conditions is not None:
        cond = cond | _draw(conditions, paths, seed, cond)
    cond = read_conditions(model, cond, fit_solver)
    rows = model.with_rows(cond, start(model, 1, 0), paths)  # refuses another number of rows
    if rows and eta:
        raise ValueError(
            f"{rows[0]} has a row for each of {paths} paths, and eta = {eta}: samples with noise are compared as those of one "
            "law; give one value for all, or fit without noise."
        )
    search = LawSearch if eta else Search
    with torch.no_grad(), evaluating(model), tqdm(disable=not should_show(progress), desc="fit", leave=False) as bar:
        return search(model, steps, paths, seed, final, end, cond, eta).run(rounds, bar)


def _draw(
    conditions: Callable[[int, torch.Generator], dict[str, Any]], paths: int, seed: int, cond: dict[str, Any]
) -> dict[str, Any]:
    """Draw the conditions of paths.

    Raises
    ------
    TypeError
        If `conditions` does not return a dictionary.
    ValueError
        If a drawn condition is also given, or none has a row for each path.
    """
    drawn = conditions(paths, torch.Generator().manual_seed(seed))
    if not isinstance(drawn, dict):
        raise TypeError(f"conditions returned a {type(drawn).__name__}; return a dictionary of conditions by name.")
    twice = sorted(drawn.keys() & cond.keys())
    if twice:
        raise ValueError(f"{twice[0]} was given and drawn; give it, or let conditions return it.")
    if not any(has_rows(value, paths) for value in drawn.values()):
        raise ValueError(f"conditions returned none with a row for each of {paths} paths; return tensors (n, ...).")
    return drawn
