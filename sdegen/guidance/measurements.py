"""Linear measurements with Gaussian noise, ``y = A x + std n``, of vectors and of images; others are `Nonlinear`.

A measurement gives its map, and all else follows: its transpose by differentiation, its matrix by measuring unit vectors.
Wrappers of `guidance` sample data given a measurement; `mixture_posterior` is the exact posterior for mixtures.
"""

from __future__ import annotations

__all__ = [
    "BernoulliNoise", "GaussianNoise", "LaplaceNoise", "NoiseLaw", "PoissonNoise", "QuantisedNoise", "StudentNoise",
    "Blur", "Downsample", "Grey", "Linear", "LinearMeasurement", "Mask", "Measurement", "Nonlinear",
    "mixture_posterior", "posterior_moments", "random_projection",
]  # fmt: skip

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ..arguments import check_arguments
from ..checks import check_count, check_number, check_tensor
from ..laws.conditioning import update_gaussians
from ..laws.mixtures import GaussianMixture, Moments
from ..laws.vectors import as_vectors
from ..precision import apply_matrix, uncast
from .measuring import LinearMeasurement, Measurement, Nonlinear
from .noises import BernoulliNoise, GaussianNoise, LaplaceNoise, NoiseLaw, PoissonNoise, QuantisedNoise, StudentNoise


class Linear(LinearMeasurement):
    """A measurement by any matrix, ``y = A x + std n``; for a linear map given as a function, subclass `LinearMeasurement`.

    Parameters
    ----------
    A
        ``(m, d)``, acting on the flattened datum.
    std
        Standard deviation of the noise.

    Raises
    ------
    ValueError
        If `A` is not a finite matrix, or `std` not positive; at a call, if data have not `d` coordinates.
    """

    @check_arguments
    def __init__(self, A: Tensor, std: float) -> None:
        super().__init__(std)
        check_tensor("A", A)
        if A.ndim != 2 or A.numel() == 0:
            raise ValueError(f"A has shape {tuple(A.shape)}; give a finite matrix (measured numbers, coordinates).")
        self.A = A

    def __call__(self, x: Tensor) -> Tensor:
        """Return ``A x``, ``(B, m)``."""
        flat = as_vectors(x)
        if flat.shape[1] != self.A.shape[1]:
            raise ValueError(
                f"x has {flat.shape[1]} coordinates, A takes {self.A.shape[1]}; give data and a matrix of the same dimension."
            )
        return apply_matrix(flat, self.A.to(x).T)


@check_arguments
def random_projection(m: int, d: int, std: float, seed: int = 0) -> Linear:
    """Draw a measurement by `m` random directions in `d` dimensions, with normal entries of variance ``1 / d``.

    Parameters
    ----------
    m, d
        Measured numbers and coordinates of the data.
    std
        Standard deviation of the noise.
    seed
        Seed of the random directions.
    """
    check_count("m", m), check_count("d", d)
    A = torch.randn(m, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) / math.sqrt(d)
    return Linear(A, std)


class Mask(LinearMeasurement):
    """A measurement of some coordinates of a datum, as for inpainting.

    Parameters
    ----------
    mask
        Boolean, of the shape of a datum; True is seen.
    std
        Standard deviation of the noise.

    Raises
    ------
    TypeError
        If the mask is not boolean.
    ValueError
        If no coordinate is seen, or `std` is not positive; at a call, if data have another shape.
    """

    @check_arguments
    def __init__(self, mask: Tensor | Sequence[bool], std: float) -> None:
        super().__init__(std)
        mask = torch.as_tensor(mask).clone()
        if mask.dtype != torch.bool:
            raise TypeError(f"mask has dtype {mask.dtype}; give booleans, True where a coordinate is seen.")
        if not mask.any():
            raise ValueError("the mask shows nothing; let at least one coordinate be True.")
        self.mask, self.places = mask, mask.flatten().nonzero()[:, 0]

    def __call__(self, x: Tensor) -> Tensor:
        """Return the seen coordinates in order, ``(B, m)``."""
        if x.shape[1:] != self.mask.shape:
            raise ValueError(
                f"x has shape {tuple(x.shape)}; the mask is for (B, {', '.join(map(str, self.mask.shape))}): give a mask of the "
                "shape of a datum, of images mask.expand(C, H, W)."
            )
        return as_vectors(x)[:, self.places.to(x.device)]


class Downsample(LinearMeasurement):
    """A measurement of an image, a signal or a volume at lower resolution: the mean of every square of pixels, stretch or cube,
    ``(B, C, *grid / factor)``.

    Parameters
    ----------
    factor
        Side of a square; it divides all sides.
    std
        Standard deviation of the noise.

    Raises
    ------
    ValueError
        If `factor` is below 2 or `std` not positive; at a call, if it does not divide the sides.
    """

    @check_arguments
    def __init__(self, factor: int, std: float) -> None:
        super().__init__(std)
        if factor < 2:
            raise ValueError(f"factor = {factor}; give a whole number of pixels, at least 2.")
        self.factor = factor

    def __call__(self, x: Tensor) -> Tensor:
        """Return the means over squares."""
        if x.ndim < 3 or any(n % self.factor for n in x.shape[2:]):
            raise ValueError(
                f"x has shape {tuple(x.shape)}; expected (B, C, *grid), such as images (B, C, H, W), with sides divisible by "
                f"{self.factor}."
            )
        cut = x.reshape(*x.shape[:2], *(k for n in x.shape[2:] for k in (n // self.factor, self.factor)))
        return cut.mean(tuple(range(3, cut.ndim, 2)))


class Blur(LinearMeasurement):
    """A measurement of an image, a signal or a volume blurred by a Gaussian, with zeros beyond the border.

    Parameters
    ----------
    width
        Standard deviation of the Gaussian in pixels; the Gaussian is cut at three standard deviations.
    std
        Standard deviation of the noise.

    Raises
    ------
    ValueError
        If `width` or `std` is not positive; at a call, if data have no grid.
    """

    @check_arguments
    def __init__(self, width: float, std: float) -> None:
        super().__init__(std)
        check_number("width", width)
        if not width > 0:
            raise ValueError(f"width = {width}; give the blur's standard deviation in pixels, a positive number.")
        self.width = width
        reach = math.ceil(3 * width)
        bell = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / width).square())
        self.bell = bell / bell.sum()

    def __call__(self, x: Tensor) -> Tensor:
        """Blur data ``(B, C, *grid)`` along every side; beyond the border they are taken for 0."""
        C, dims, bell = x.shape[1], x.ndim - 2, self.bell.to(x)
        if not 1 <= dims <= 3:
            raise ValueError(f"x has shape {tuple(x.shape)}; expected (B, C, *grid), such as images (B, C, H, W).")
        convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[dims - 1]
        for axis in range(dims):
            along = [len(bell) if i == axis else 1 for i in range(dims)]
            with uncast(x):
                x = convolve(
                    x, bell.reshape(1, 1, *along).repeat(C, 1, *[1] * dims), padding=[n // 2 for n in along], groups=C
                )
        return x


class Grey(LinearMeasurement):
    """A measurement of the grey levels of a colour image: the mean over its channels, ``(B, 1, H, W)``.

    Parameters
    ----------
    std
        Standard deviation of the noise.

    Raises
    ------
    ValueError
        If `std` is not positive; at a call, if data are not images.
    """

    def __call__(self, x: Tensor) -> Tensor:
        """Average over channels."""
        if x.ndim != 4:
            raise ValueError(f"x has shape {tuple(x.shape)}; expected images (B, C, H, W).")
        return x.mean(1, keepdim=True)


@check_arguments
def mixture_posterior(law: GaussianMixture, measurement: LinearMeasurement, y: Tensor) -> GaussianMixture:
    """Return the exact posterior of Gaussian-mixture data given a measurement `y`: a mixture again.

    With ``S = A C Aᵀ + std²`` and ``K = C Aᵀ S⁻¹`` a component ``N(m, C)`` becomes ``N(m + K (y − A m), C − K A C)``, and its
    weight is multiplied by ``N(y; A m, S)``. So ``Exact(sde, mixture_posterior(...))`` is the true score model of the posterior
    on any linear process, with which approximate wrappers can be compared.

    Parameters
    ----------
    law
        The law of the data.
    measurement
        The measurement of the data.
    y
        The measured values of one datum, without a batch.

    Raises
    ------
    ValueError
        If `y` has not as many numbers as are measured.

    Examples
    --------
    >>> standard = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.ones(1))
    >>> seen = mixture_posterior(standard, Mask(torch.tensor([True, False]), std=1.0), torch.tensor([2.0]))
    >>> seen.means.tolist(), seen.covariances.tolist()
    ([[1.0, 0.0]], [[[0.5, 0.0], [0.0, 1.0]]])
    """
    check_tensor("y", y)
    A = measurement.matrix(law.event_shape)
    y = y.detach().cpu().flatten()
    if len(y) != len(A):
        raise ValueError(f"y has {len(y)} numbers; of a datum {len(A)} are measured. Give those of one datum.")
    means, C = law.flat()
    moved, rest, residual, S = update_gaussians(means, C, A, measurement.std, y)
    evidence = torch.distributions.MultivariateNormal(torch.zeros_like(y), S).log_prob(residual)
    log_weights = (law.weights.log() + evidence).log_softmax(0)
    kept = log_weights > log_weights.max() - 600 * math.log(2)  # the others are as good as 0
    weights = log_weights[kept].softmax(0)
    return GaussianMixture(weights, moved[kept].reshape(-1, *law.event_shape), rest[kept])


@check_arguments
def posterior_moments(moments: Moments, measurement: LinearMeasurement, y: Tensor) -> Moments | None:
    """Return mean and covariance of Gaussian data given a measurement `y`, from those without it.

    For data that are not Gaussian the mean is the best linear estimate, and the covariance that of its error, which on average is
    no narrower than the posterior.

    Parameters
    ----------
    moments
        The moments of the data, of ``d`` numbers; the mean may have a row for each sample.
    measurement, y
        The measurement of the data, and the measured values of one datum or of each.

    Returns
    -------
    Moments
        The mean has a row for each `y`, if there are several. None if `y` has another size than a measurement of data.
    """
    shape = moments.event_shape
    A, y = measurement.matrix(shape), y.detach().cpu().double()
    means, C = (v.detach().cpu().double() for v in (moments.mean.reshape(-1, A.shape[1]), moments.covariance))
    if y.numel() % len(A) or len({1, len(means), y.numel() // len(A)}) > 2:
        return None
    C = C if C.ndim == 2 else C.diag()
    moved, rest, _, _ = update_gaussians(means, C[None], A, measurement.std, y.reshape(-1, len(A)))
    return Moments(moved.reshape(shape if len(moved) == 1 else (-1, *shape)), rest[0])
