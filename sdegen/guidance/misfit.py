"""A test of whether samples fit their measurement, at the end of `sample` under a measurement, `split_gibbs` and
`decoupled_annealing`.

A datum and its measurement `y` have the same joint law as a draw of the posterior and `y`. So whatever the measurement, `y` is
less likely under a right sample than new measurements of that sample as often as under the datum itself, and more likely as
often. Samples that fit `y` worse than noise does are not of this posterior. Samples that fit `y` better than noise does vary less
than the posterior along the measured directions.
"""

from __future__ import annotations

__all__ = ["Misfit", "find_misfit", "warn_of_misfit"]

from typing import NamedTuple

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_tensor
from ..warning import warn_caller
from .measuring import Measurement, check_measured

SEED = 141_421_356_237  # of the noise that samples are compared with, which no run is likely to begin from
REPEATS = 199  # new measurements of a sample
LOOKED_AT = 64  # samples
TOGETHER = 2**22  # measured numbers that are drawn at a time, and of all samples beyond the first few
FEW = 8  # samples that are tested however many numbers are measured of each
TELLING = 0.5  # nats for each number: residuals of 1.4 standard deviations, where noise has 1
CLOSE = -0.25  # nats for each number: residuals of 0.7 standard deviations; without residuals they are -0.5


class Misfit(NamedTuple):
    """How much worse samples fit the measured values than noise does, or how much better.

    Attributes
    ----------
    share
        The share of the samples under which `y` is less likely than all of 199 new measurements of the sample. Over measurements
        of draws of the model, samples of the posterior have a mean share of one in 200, and so more than a half at most once in
        100.
    nats
        By how much the log-likelihood of `y` under a sample is below the mean of those of new measurements of the sample, for
        each measured number; the median over samples. For Gaussian noise it is half of (the mean square of the residuals, in
        units of the variance of the noise, less 1).
    closer
        The share of the samples under which `y` is more likely than all of 199 new measurements of the sample; its mean over
        measurements is at most one in 200 too.
    """

    share: float
    nats: float
    closer: float

    @property
    def wrong(self) -> bool:
        """Whether most samples fit worse than noise does, by half a nat for each number at least."""
        return self.share > 0.5 and self.nats > TELLING

    @property
    def narrow(self) -> bool:
        """Whether most samples fit better than noise does, by a quarter of a nat for each number at least."""
        return self.closer > 0.5 and self.nats < CLOSE


@check_arguments
def find_misfit(measurement: Measurement, y: Tensor, x: Tensor) -> Misfit:
    """Compare the likelihood of measured values under samples with that of new measurements of the samples, and return the
    `Misfit`.

    It takes no evaluation of a model. Samples that fit `y` as well as noise does may be wrong all the same, as in the weights of
    modes, which `annealed_smc` gets right. The more numbers are measured, the smaller are the errors that are found; if one or
    two are measured, only samples that agree with them nearly exactly fit too well.

    Parameters
    ----------
    measurement
        The measurement of the data.
    y
        The measured values, of one datum or of each.
    x
        Samples of data given `y`, ``(n, *)``, of which 64, evenly spaced, are tested.

    Raises
    ------
    ValueError
        If there is no sample or a sample is not finite, or `y` has another shape than a measurement, or is impossible under the
        noise.

    Examples
    --------
    >>> import torch
    >>> from sdegen.guidance.measurements import Mask
    >>> A, y = Mask([True, False], std=0.1), torch.tensor([3.0])
    >>> x = torch.tensor([3.0, 0.0]) + 0.1 * torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    >>> find_misfit(A, y, x).wrong, find_misfit(A, y, x + 0.5).wrong
    (False, True)
    """
    if check_tensor("x", x).ndim < 2 or not len(x):
        raise ValueError(f"x has shape {tuple(x.shape)}; give samples of data, (n, *), at least one.")
    with torch.no_grad():
        seen = measurement.measure(x)
        m = max(1, seen[0].numel())
        rows = torch.linspace(0, len(x) - 1, min(len(x), LOOKED_AT, max(FEW, TOGETHER // (REPEATS * m)))).round().long()
        y, z = check_measured(y, seen)[rows], seen[rows]
        found, draws = measurement.noise.log_prob(y, z).double().cpu(), torch.Generator().manual_seed(SEED)
        made = []
        for part in torch.arange(REPEATS).split(max(1, TOGETHER // (m * len(z)))):
            often = z.repeat(len(part), *[1] * (z.ndim - 1))
            made.append(measurement.noise.log_prob(measurement.noise.sample(often, draws), often).view(len(part), -1))
    often_made = torch.cat(made).double().cpu()
    nats = (often_made.mean(0) - found) / m
    worse, better = (found < often_made.amin(0)), (found > often_made.amax(0))
    return Misfit(worse.double().mean().item(), nats.median().item(), better.double().mean().item())


def warn_of_misfit(measurement: Measurement, y: Tensor, x: Tensor, exactly: bool = False) -> None:
    """Warn if most samples fit the measured values worse than noise does, or better.

    Parameters
    ----------
    measurement, y, x
        As for `find_misfit`.
    exactly
        Whether samples are to agree with `y` exactly, so that no fit is too good.
    """
    try:
        misfit = find_misfit(measurement, y, x)
    except ValueError:  # a sample for which the noise has no law, such as a rate below zero
        return
    if misfit.wrong:
        warn_caller(
            f"{100 * misfit.share:.0f} % of the samples fit y worse than noise does in 199 of 200 draws, by {misfit.nats:.3g} "
            "nats a number, so that they are no draws of the posterior, or y is of other data than the model's; take a sampler "
            "with noise and more steps, such as samplers.ExponentialSDE(100), or guidance.annealed_smc."
        )
    if misfit.narrow and not exactly:
        warn_caller(
            f"{100 * misfit.closer:.0f} % of the samples fit y better than noise does in 199 of 200 draws, by {-misfit.nats:.3g} "
            "nats a number, so that they vary less than draws of the posterior along what was measured; give the sampler a grid "
            "with steps at less noise than the measurement has, such as grids.LogSNR(end=1e-9), or take "
            "guidance.annealed_smc."
        )
