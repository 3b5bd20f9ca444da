"""Problems with a known posterior: a law, a measurement of one of its data, and the exact law of the data given what was seen.

Of a mixture, measured linearly with Gaussian noise, the posterior is a mixture in closed form. Other posteriors are drawn
exactly by rejection: a draw of the law is kept with the chance ``p(y | x) / sup_z p(y | z)``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

import sdegen
from benchmarks.rows import Values
from sdegen import measurements, metrics

CHUNK = 2**16  # draws of a law at a time
MANY = 10_000  # draws that the moments of a posterior are estimated from


class Rejected:
    """The posterior of a mixture given any measurement: draws by rejection, and a density without its constant.

    Parameters
    ----------
    law
        A mixture.
    measurement
        The measurement of a datum.
    y
        The value that was measured.
    most
        The largest value of ``log p(y | z)`` over all `z`.
    """

    def __init__(
        self, law: sdegen.GaussianMixture, measurement: measurements.Measurement, y: Tensor, most: float
    ) -> None:
        self.law, self.measurement, self.y, self.most = law, measurement, y, most

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw `n` data."""
        kept, count = [], 0
        while count < n:
            x = self.law.sample(CHUNK, generator)
            chance = (self._log_likelihood(x) - self.most).exp()
            kept.append(x[torch.rand(CHUNK, dtype=torch.float64, generator=generator) < chance])
            count += len(kept[-1])
        return torch.cat(kept)[:n]

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density but for a constant."""
        return self.law.log_prob(x) + self._log_likelihood(x)

    def component_log_prob(self, x: Tensor) -> Tensor:
        """Return those of the law's components: what was seen tells nothing more of them than the datum does."""
        return self.law.component_log_prob(x)

    def moments(self) -> sdegen.Moments:
        """Return the moments of many draws."""
        return sdegen.Moments(self._draws.mean(0), self._draws.T.cov())

    @cached_property
    def weights(self) -> Tensor:
        """The weights of the components in many draws."""
        return self.component_log_prob(self._draws).softmax(1).mean(0)

    @cached_property
    def _draws(self) -> Tensor:
        return self.sample(MANY, torch.Generator().manual_seed(2000))

    def _log_likelihood(self, x: Tensor) -> Tensor:
        return self.measurement.log_prob(self.y.expand(len(x), -1), x)


class Problem:
    """A law, a measurement of one of its data, and the exact posterior.

    Parameters
    ----------
    law
        A mixture.
    measurement
        The measurement of a datum.
    y
        The value that was measured.
    truth
        The posterior, a mixture or `Rejected`.
    """

    def __init__(
        self,
        law: sdegen.GaussianMixture,
        measurement: measurements.Measurement,
        y: Tensor,
        truth: Any,
    ) -> None:
        self.law, self.measurement, self.y, self.truth = law, measurement, y, truth
        self.model = sdegen.Exact(sdegen.VP(), law)
        self.unit = truth.moments().covariance.diagonal().mean().sqrt().item()

    def judged(self, x: Tensor, seed: int) -> Values:
        """Return the columns of samples."""
        reference = self.truth.sample(len(x), torch.Generator().manual_seed(1000 + seed))
        w2 = metrics.sliced_wasserstein(x, reference, seed=seed)
        shares = self.truth.component_log_prob(x).softmax(1)
        threshold = self.truth.log_prob(reference).quantile(0.1)
        inside = (self.truth.log_prob(x) >= threshold).double()
        return {
            "sliced W2": [w2.value / self.unit, w2.stderr / self.unit],
            "KL": list(metrics.knn_kl(x, reference)),
            "modes": [0.5 * (shares.mean(0) - self.truth.weights).abs().sum().item(), None],
            "coverage": [inside.mean().item(), (inside.std() / len(x) ** 0.5).item()],
        }


def directions(law: sdegen.GaussianMixture, m: int, seed: int) -> Tensor:
    """Return `m` random directions, ``(m, d)``, of length one."""
    A = torch.randn(m, law.means.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 10_000))
    return A / A.norm(dim=1, keepdim=True)


def law_of(dim: int) -> sdegen.GaussianMixture:
    """Return the ring in two dimensions, eight random modes in others."""
    return sdegen.data.gaussian_ring() if dim == 2 else sdegen.data.random_mixture(dim, modes=8)


def linear(dim: int, noise: float, seed: int) -> Problem:
    """Return a quarter of the dimensions measured by random directions.

    Parameters
    ----------
    dim
        Dimensions of the data: 2 for the ring.
    noise
        Standard deviation of the measurement's noise, in units of what is measured.
    seed
        The seed of the datum, the directions and the noise.
    """
    law = law_of(dim)
    A = directions(law, max(1, dim // 4), seed)
    measurement = measurements.Linear(A, noise * spread(law, A))
    y = seen(law, measurement, seed)
    return Problem(law, measurement, y, measurements.mixture_posterior(law, measurement, y))


def spread(law: sdegen.GaussianMixture, A: Tensor) -> float:
    """Return the standard deviation of what directions see of a law."""
    return (A @ law.moments().covariance @ A.T).diagonal().mean().sqrt().item()


def seen(law: sdegen.GaussianMixture, measurement: measurements.Measurement, seed: int) -> Tensor:
    """Return what is seen of a datum of the law."""
    datum = law.sample(1, torch.Generator().manual_seed(seed))
    return measurement.sample(datum, torch.Generator().manual_seed(seed + 100))[0]


def magnitude(seed: int) -> Problem:
    """Return the ring, of which the size of one direction is measured with Gaussian noise: two bands."""
    law = law_of(2)
    A = directions(law, 1, seed)
    measurement = measurements.Nonlinear(lambda x: (x @ A.T).abs(), 0.1 * spread(law, A))
    y = seen(law, measurement, seed)
    return Problem(
        law, measurement, y, Rejected(law, measurement, y, measurement.noise.log_prob(y[None], y[None]).item())
    )


def counts(seed: int) -> Problem:
    """Return eight random modes in 8 dimensions, of which two counts are seen, whose mean is exponential along a direction."""
    law = law_of(8)
    A = directions(law, 2, seed) / spread(law, directions(law, 2, seed))
    measurement = measurements.Nonlinear(lambda x: (1.5 + x @ A.T).exp(), measurements.PoissonNoise())
    y = seen(law, measurement, seed)
    rate = y.clamp_min(1e-12)[None]  # a count of 0 is most likely at rate 0, whose logarithm does not exist
    return Problem(law, measurement, y, Rejected(law, measurement, y, measurement.noise.log_prob(y[None], rate).item()))


def answers(seed: int) -> Problem:
    """Return eight random modes in 8 dimensions, of which six answers, yes or no, are seen."""
    law = law_of(8)
    A = directions(law, 6, seed)
    A = 2 * A / spread(law, A)
    measurement = measurements.Nonlinear(lambda x: x @ A.T, measurements.BernoulliNoise())
    y = seen(law, measurement, seed)
    return Problem(law, measurement, y, Rejected(law, measurement, y, 0.0))


NONLINEAR: dict[str, Callable[[int], Problem]] = {
    "magnitude": magnitude, "counts": counts, "answers": answers,
}  # fmt: skip
