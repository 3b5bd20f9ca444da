"""Fits of posteriors and likelihoods to simulated pairs: `fit_posterior` and `fit_likelihood`."""

from __future__ import annotations

__all__ = ["fit_likelihood", "fit_posterior"]

from collections.abc import Sequence
from typing import Any, TypeVar

from torch import Tensor, nn

from ..answers import ask_log_prob
from ..arguments import check_arguments, check_law
from ..checks import check_tensor
from ..laws.coordinates import Coordinates
from ..laws.outside import as_law
from ..laws.supports import free_coordinates
from ..models import Model
from ..nets import MLP, Vector
from ..processes import VP
from ..training import fit
from .conditional import ConditionalDensity
from .guess import LinearGuess
from .pairs import Pairs
from .posterior import AmortisedPosterior

GIVEN = "given"  # the name of the condition of networks that are made here
WIDTH = 64  # of the default network: on a few thousand simulations a larger one learns no more
DECAY = 0.1  # of weights, unless another is given: without it a network learns a few thousand pairs by heart

Density = TypeVar("Density", bound=ConditionalDensity)


@check_arguments
def fit_posterior(
    prior: Any,
    pairs: Pairs | Sequence[Any],
    net: nn.Module | None = None,
    *,
    validation: Pairs | Sequence[Any] | None = None,
    progress: bool | None = None,
    **settings: Any,
) -> AmortisedPosterior:
    """Train a score model of parameters given data on simulated pairs, and return it as an `AmortisedPosterior`.

    Neural posterior estimation with a score model (T. Geffner et al., *Compositional score modeling for simulation-based
    inference*, 2022, arXiv:2209.14249). Parameters are taken in coordinates in which the prior has no bounds
    (`free_coordinates`), so that no draw leaves its support, and less the best linear guess from the data (`LinearGuess`).

    Parameters
    ----------
    prior
        The law from which the parameters were drawn, with ``sample`` and ``log_prob``: of ``torch.distributions``, of this
        library, or of the user, which has an attribute ``coordinates`` with those in which it has no bounds.
    pairs
        What `draw_pairs` returned, or ``(theta, x)``; pairs with NaN or infinite data are left out, and warned of.
    net
        A network of as many coordinates as there are parameters, with a single condition that takes `x`; by default
        ``MLP(d, width=64, conditions={"given": Vector(k)})`` for data ``(N, k)``.
    validation
        Other pairs, whose loss is measured now and then: see ``posterior.run.validation``.
    progress
        Whether to show a bar.
    settings
        Settings of the training by name (`training.Settings`), and other arguments of `training.fit`. ``weight_decay`` is 0.1
        unless it is given by name or in `Settings`: pairs are few, and without it the network would learn single ones by heart.

    Returns
    -------
    AmortisedPosterior
        The posterior, with the record of the training as ``run``.

    Raises
    ------
    TypeError
        If the prior is not a law with a density, or pairs are not tensors of floating-point numbers.
    ValueError
        If there are no pairs with finite data, parameters lie where the prior has no density, or data are not vectors and no
        network is given; and as for `training.fit`.

    Examples
    --------
    >>> import torch
    >>> from sdegen import inference
    >>> prior = torch.distributions.Uniform(-torch.ones(2), torch.ones(2))
    >>> pairs = inference.draw_pairs(prior, lambda theta: theta + 0.1 * torch.randn_like(theta), 500, seed=0)
    >>> posterior = fit_posterior(prior, pairs, steps=20, seed=0, progress=False)
    >>> theta = posterior.sample(100, torch.tensor([1.0, 0.0]), seed=0)
    >>> theta.shape, bool(theta.abs().max() <= 1)
    (torch.Size([100, 2]), True)
    """
    law, coordinates = as_law(check_law("prior", prior, "sample", "log_prob")), free_coordinates(prior)

    def read(name: str, given: Sequence[Any]) -> tuple[Tensor, Tensor]:
        theta, x = _read(name, given)
        outside = int(ask_log_prob(law, theta.double()).isneginf().sum())
        if outside:
            raise ValueError(
                f"{name} has {outside} of {len(theta)} parameters where the prior has no density; give pairs whose parameters "
                "were drawn from the prior, or from a part of it."
            )
        return theta, x

    (theta, x), held = read("pairs", pairs), None if validation is None else read("validation", validation)
    model, guess, r = _prepare(theta, x, coordinates, net)
    posterior = AmortisedPosterior(model, prior, coordinates, guess)
    return _train(posterior, model, r, x, held, progress=progress, **settings)


@check_arguments
def fit_likelihood(
    pairs: Pairs | Sequence[Any],
    net: nn.Module | None = None,
    *,
    coordinates: Coordinates | None = None,
    validation: Pairs | Sequence[Any] | None = None,
    progress: bool | None = None,
    **settings: Any,
) -> ConditionalDensity:
    """Train a score model of data given parameters on simulated pairs, and return the likelihood, a `ConditionalDensity`.

    Its ``log_prob(x, theta)`` is the log-likelihood, and ``sample(n, theta)`` simulates in the place of the simulator.

    Parameters
    ----------
    pairs
        As for `fit_posterior`; the data are vectors. They need not come from a prior.
    net
        A network of as many coordinates as there are numbers in a datum, with a single condition that takes parameters.
    coordinates
        Coordinates in which the data have no bounds, such as ``coordinates.Log()``.
    validation, progress, settings
        As for `fit_posterior`.

    Returns
    -------
    ConditionalDensity
        The likelihood, with the record of the training as ``run``.

    Raises
    ------
    TypeError, ValueError
        As for `fit_posterior`.
    """
    (theta, x), held = _read("pairs", pairs), None if validation is None else _read("validation", validation)[::-1]
    model, guess, r = _prepare(x, theta, coordinates, net)
    return _train(ConditionalDensity(model, coordinates, guess), model, r, theta, held, progress=progress, **settings)


def _read(name: str, given: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Return parameters and data of pairs that a user gave, without those whose data are not finite."""
    if len(given) not in (2, 3):
        raise ValueError(f"{name} has {len(given)} parts; give (theta, x), or what draw_pairs returned.")
    theta, x = (check_tensor(f"{name}[{i}]", given[i], finite=False) for i in range(2))
    pairs = Pairs.of(theta, x)
    return pairs.theta, pairs.x


def _prepare(
    y: Tensor, x: Tensor, coordinates: Coordinates | None, net: nn.Module | None
) -> tuple[Model, LinearGuess | None, Tensor]:
    """Return an untrained model of `y` given `x`, the linear guess if both are vectors, and the states to train the model on."""
    u = y.double()
    if coordinates is not None:
        u = coordinates(coordinates.check(u, "y"))
    vectors = y.ndim == 2 and x.ndim == 2
    if net is None:
        if not vectors:
            raise ValueError(
                f"theta and x have shapes {tuple(y.shape)} and {tuple(x.shape)}, and the default network is of vectors given "
                "vectors; give a net of your own, with one condition."
            )
        net = MLP(u.shape[1], width=WIDTH, conditions={GIVEN: Vector(x.shape[1])})
    guess, r = LinearGuess.of(u, x) if vectors else (None, u)
    return Model(net, VP()), guess, r


def _train(
    density: Density, model: Model, r: Tensor, x: Tensor, held: tuple[Tensor, Tensor] | None, **how: Any
) -> Density:
    """Train the model of a conditional density on states `r` given `x`, and return the density with the record."""
    if how.get("settings") is None:
        how.setdefault("weight_decay", DECAY)
    validation = held and (density.to_states(*held), {density.name: held[1]})
    density.run = fit(model, (r, {density.name: x}), validation=validation, **how)
    return density
