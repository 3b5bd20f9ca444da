"""Products of powers of Gaussian mixtures, which are mixtures again, with their normalisers: `multiply_laws`."""

from __future__ import annotations

__all__ = ["Normalised", "multiply_components", "multiply_laws", "read_powers", "tilt_law"]

import math
from collections.abc import Iterable, Sequence
from itertools import combinations_with_replacement
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_number, check_tensor
from ..show import show_call, show_value
from .mixtures import GaussianMixture

MOST = 2**16  # components of a product
Factors = Sequence[tuple[GaussianMixture, float]]


class Normalised(NamedTuple):
    """A law whose density was known up to a constant, and the logarithm of this constant.

    Attributes
    ----------
    law
        The law, normalised.
    log_normaliser
        The logarithm of the number that the unnormalised density was divided by.
    """

    law: GaussianMixture
    log_normaliser: float

    def __repr__(self) -> str:
        return show_call(self)


@check_arguments
def multiply_laws(laws: dict[GaussianMixture, float] | Iterable[tuple[GaussianMixture, float]]) -> Normalised:
    """Return the product ``∏ p_i(x)^β_i / Z`` of powers of Gaussian mixtures, a mixture again, and ``log Z``.

    Powers of mixtures are whole numbers of at least 1; a single Gaussian may have any power. A component of the product takes one
    component of each factor, with the precision ``Σ β_j C_j⁻¹``.

    Parameters
    ----------
    laws
        A dict of mixtures and their powers, or pairs of these.

    Raises
    ------
    TypeError
        If `laws` holds anything but pairs of a mixture and a number.
    ValueError
        If laws have data of several shapes, a mixture of several components has another power, the product has too many
        components, or it has no finite integral.

    Examples
    --------
    >>> standard = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1))
    >>> law, log_normaliser = multiply_laws({standard: 2.0})
    >>> law.covariances.tolist(), round(log_normaliser + math.log(2 * math.pi**0.5), 6)
    ([[0.5]], 0.0)
    """
    pairs = read_powers("laws", laws, GaussianMixture, "a mixture")
    shapes = {tuple(law.event_shape) for law, _ in pairs}
    if len(shapes) != 1:
        raise ValueError(f"the laws have data of the shapes {sorted(shapes)}; give one law at least, all of one shape.")
    for law, power in pairs:
        if len(law.weights) > 1 and (power < 1 or power != int(power)):
            raise ValueError(
                f"a mixture of {len(law.weights)} components has the power {power:g}, and is no mixture then; whole powers of at "
                "least 1 are in closed form."
            )
    each = [(len(law.weights), int(power) if len(law.weights) > 1 else 1) for law, power in pairs]
    number = math.prod(math.comb(K + n - 1, n) for K, n in each)
    if number > MOST:
        raise ValueError(f"the product has {number} components; it may have {MOST}: lower the powers.")
    found = multiply_components(pairs)
    if found is None:
        raise ValueError(
            "the product has no finite integral: Σ β_i C_i⁻¹, the precision of a component, is not positive definite; raise the "
            "powers that are positive, or lower the others."
        )
    return found


def read_powers(name: str, given: Any, kind: type, what: str, number: str = "power") -> list[tuple[Any, float]]:
    """Return the pairs of a thing and its power, or another number, in a dict or a list; refuse anything else.

    Parameters
    ----------
    name
        What an error calls the argument.
    given
        A dict of things and their powers, or pairs of these.
    kind, what
        The class of the things, and what an error calls one of them.
    number
        What an error calls the number.

    Raises
    ------
    TypeError
        If `given` holds anything but pairs of such a thing and a number.
    ValueError
        If there are no pairs, or a power is not finite.
    """
    pairs = list(given.items() if isinstance(given, dict) else given)
    for pair in pairs:
        if not isinstance(pair, tuple) or len(pair) != 2 or not isinstance(pair[0], kind):
            raise TypeError(
                f"{name} holds {show_value(pair)}; give {what} and its {number} each, as a dict or as pairs."
            )
    if not pairs:
        raise ValueError(f"{name} is empty; give {what} and its {number} at least.")
    return [(thing, check_number(f"a {number}", power, hint=", such as 2 or −1")) for thing, power in pairs]


def multiply_components(factors: Factors) -> Normalised | None:
    """Return the product of `multiply_laws`, its arguments unchecked; None if it has no finite integral.

    Parameters
    ----------
    factors
        Mixtures and their powers.
    """
    first = factors[0][0]
    origin = first.means.reshape(len(first.weights), -1)[0]  # near the data, so that little cancels
    diagonal = all(
        law.basis is None and law.covariances.shape in (law.weights.shape, law.means.shape) for law, _ in factors
    )
    terms = _raise(first, factors[0][1], origin, diagonal)
    for law, power in factors[1:]:
        more = _raise(law, power, origin, diagonal)
        terms = [(a[:, None] + b).flatten(0, 1) for a, b in zip(terms, more, strict=True)]
    return _normalise(terms, origin, diagonal, first.event_shape)


@check_arguments
def tilt_law(law: GaussianMixture, linear: Tensor, quadratic: Tensor | None = None) -> Normalised:
    """Return the law ``p(x) exp(bᵀ x − ½ xᵀ Q x) / Z`` of a Gaussian mixture tilted by a reward, a mixture again, and ``log Z``.

    Parameters
    ----------
    law
        The mixture.
    linear
        `b`, of the shape of a datum.
    quadratic
        `Q`, a matrix ``(d, d)`` over the flattened datum, of which the symmetric part alone counts; its negative eigenvalues
        must be small for those of the components' precisions. None by default.

    Raises
    ------
    ValueError
        If `b` or `Q` has another shape or holds NaN or infinite values, or the tilted law has no finite integral.

    Examples
    --------
    >>> standard = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1))
    >>> found = tilt_law(standard, torch.tensor([2.0]))
    >>> found.law.means.tolist(), found.log_normaliser
    ([[2.0]], 2.0)
    """
    d = law.event_shape.numel()
    Q = torch.zeros(d, d, dtype=torch.float64) if quadratic is None else check_tensor("quadratic", quadratic).double()
    if check_tensor("linear", linear).shape != law.event_shape or Q.shape != (d, d):
        raise ValueError(
            f"linear has shape {tuple(linear.shape)} and quadratic {tuple(Q.shape)}; give {tuple(law.event_shape)}, as a datum "
            f"has, and {(d, d)}."
        )
    Q = 0.5 * (Q + Q.T)
    origin, b = law.means.reshape(len(law.weights), -1)[0], linear.flatten().double()
    c, h, P = _raise(law, 1.0, origin, False)
    c = c + b @ origin - 0.5 * origin @ Q @ origin
    found = _normalise([c, h + b - Q @ origin, P + Q], origin, False, law.event_shape)
    if found is None:
        raise ValueError(
            "the tilted law has no finite integral: C⁻¹ + Q is not positive definite for each component; give a larger Q."
        )
    return found


def _normalise(terms: list[Tensor], origin: Tensor, diagonal: bool, event_shape: torch.Size) -> Normalised | None:
    """Return the mixture of the components ``exp(c + h·x − ½ xᵀ P x)`` around an origin; None if one has no finite integral."""
    log_c, pulled, precision = terms
    sizes = precision if diagonal else torch.linalg.eigvalsh(precision)
    if not (sizes > 0).all():
        return None
    covariance = 1 / precision if diagonal else torch.linalg.inv(precision)
    mean = covariance * pulled if diagonal else (covariance @ pulled[..., None])[..., 0]
    log_w = log_c + 0.5 * ((mean * pulled).sum(1) + (2 * math.pi / sizes).log().sum(1))
    kept = log_w > log_w.max() - 600 * math.log(2)  # those that float64 tells from zero
    means, covariance = (mean + origin)[kept].reshape(-1, *event_shape), covariance[kept]
    covariance = covariance.reshape(means.shape) if diagonal else 0.5 * (covariance + covariance.mT)
    return Normalised(GaussianMixture(log_w[kept].softmax(0), means, covariance), log_w.logsumexp(0).item())


def _raise(law: GaussianMixture, power: float, origin: Tensor, diagonal: bool) -> list[Tensor]:
    """Return the components of a power as ``exp(c + h·x − ½ xᵀ P x)`` around an origin: the `c` ``(M,)``, `h` ``(M, d)``,
    and `P`, matrices or diagonals.
    """
    means, C = law.flat()
    m = means - origin
    if diagonal:
        P = 1 / C.diagonal(dim1=1, dim2=2)
        log_det, h = -P.log().sum(1), P * m
    else:
        P = torch.linalg.inv(C)
        log_det, h = torch.linalg.slogdet(C).logabsdet, (P @ m[..., None])[..., 0]
    c = law.weights.log() - 0.5 * (log_det + (m * h).sum(1) + m.shape[1] * math.log(2 * math.pi))
    if len(c) == 1:
        return [power * v for v in (c, h, P)]
    n = int(power)
    taken = torch.tensor(list(combinations_with_replacement(range(len(c)), n)))
    counts = torch.nn.functional.one_hot(taken, len(c)).sum(1).double()  # (M, K), of each component
    orders = math.lgamma(n + 1) - torch.lgamma(counts + 1).sum(1)
    return [counts @ c + orders, counts @ h, torch.tensordot(counts, P, 1)]
