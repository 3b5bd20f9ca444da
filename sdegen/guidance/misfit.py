"""Whether samples fit what was measured: the test that `sample` ends with under a measurement, and so do `split_gibbs` and
`decoupled_annealing`.

A datum and what was seen of it are a pair, and so are a draw of the posterior and what was seen: both pairs have one law. So
noise makes what is seen of a right sample less likely than `y` as often as what is seen of the datum, whatever the measurement;
and more likely as often. Samples that fit worse than noise does are of another posterior, and those that fit better than it does
vary less than a posterior does along what was measured.
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
REPEATS = 199  # of what noise makes of a sample
LOOKED_AT = 64  # samples
TOGETHER = 2**22  # numbers that noise makes at a time, and of all samples beyond the first few
FEW = 8  # samples that are looked at however much is measured of each
TELLING = 0.5  # nats for each number: residuals of 1.4 standard deviations, where noise has 1
CLOSE = -0.25  # nats for each number: residuals of 0.7 standard deviations; without residuals they are -0.5


class Misfit(NamedTuple):
    """How much worse samples fit what was seen than noise does, or how much better.

    Attributes
    ----------
    share
        Of the samples, under which `y` is less likely than all that noise made of them in 199 draws. Over measurements of
        draws of the model, samples of the posterior have a mean share of one in 200, and so more than a half at most once in 100.
    nats
        How much less the log-likelihood of `y` under a sample is than that of what noise makes of the sample, on average and for
        each number measured; the median of the samples.
        Of Gaussian noise it is half of what the mean square of the residuals, in units of its variance, is above 1.
    closer
        Of the samples, the share under which `y` is more likely than all that noise made of them; its mean over measurements is
        at most one in 200 too.
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
    """Compare how likely what was seen is under samples with what noise makes of them, and return the `Misfit`.

    It takes no evaluation of a model. Samples that fit `y` as noise does may be wrong all the same, as in the weights of modes,
    which `annealed_smc` has right. The more numbers are measured, the smaller are the errors that are told of; of one or two
    numbers only samples that meet them nearly without noise fit too well.

    Parameters
    ----------
    measurement
        What was done to the data.
    y
        What was seen, of one datum or of each.
    x
        Samples of data given `y`, ``(n, *)``, of which 64, evenly spaced, are looked at.

    Raises
    ------
    ValueError
        If there is no sample or one is not finite, or `y` has another shape than what is measured, or is nothing that the noise
        can give.

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
    """Warn of samples of which most fit what was seen worse than noise does, or better.

    Parameters
    ----------
    measurement, y, x
        As for `find_misfit`.
    exactly
        Whether samples are to meet `y` without its noise, so that no fit is too good.
    """
    try:
        misfit = find_misfit(measurement, y, x)
    except ValueError:  # of a sample that noise has no law for, such as a rate below zero
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
