"""Pairs of parameters and the data that a simulator makes of them: `Pairs`, and `draw_pairs`, which runs the simulator."""

from __future__ import annotations

__all__ = ["Pairs", "draw_pairs"]

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from ..answers import ask_draws
from ..arguments import asked_as, check_arguments, check_law
from ..checks import check_count, check_tensor
from ..dense import with_all_digits
from ..laws.outside import as_law
from ..mixing import mixes_rows
from ..progress import should_show
from ..samplers.noise import as_seed
from ..seeding import seeded
from ..show import show_call
from ..signatures import check_call
from ..warning import warn_caller


@asked_as("what draw_pairs returned, or (theta, x)")
class Pairs(NamedTuple):
    """Parameters, and the data simulated from each.

    Attributes
    ----------
    theta
        Parameters, ``(N, d)``.
    x
        Data, ``(N, *)``: a row for each vector of parameters.
    lost
        The number of simulations that failed, whose pairs were left out.
    """

    theta: Tensor
    x: Tensor
    lost: int = 0

    def __repr__(self) -> str:
        return show_call(self)

    @classmethod
    def of(cls, theta: Tensor, x: Tensor) -> Pairs:
        """Return the pairs whose data are finite, and warn of how many are not.

        Parameters
        ----------
        theta, x
            As for the attributes, with NaN or infinite values in data where a simulation failed.

        Raises
        ------
        TypeError
            If parameters or data are not tensors of floating-point numbers.
        ValueError
            If parameters are not vectors, numbers of rows differ, or all data hold NaN or infinite values.
        """
        check_tensor("theta", theta), check_tensor("x", x, finite=False)
        if theta.ndim != 2 or not theta.numel():
            raise ValueError(f"theta has shape {tuple(theta.shape)}; give vectors of parameters, (N, d).")
        if x.ndim == 0 or len(x) != len(theta):
            raise ValueError(
                f"x has shape {tuple(x.shape)} for {len(theta)} parameters; give a row for each. A simulator that takes "
                "one vector at a time is run with batched=False."
            )
        whole = x.reshape(len(x), -1).isfinite().all(1)
        kept = int(whole.sum())
        if kept == 0:
            raise ValueError(
                f"x holds NaN or infinite values in all of {len(x)} rows; look at what the simulator does with these parameters."
            )
        if kept < len(x):
            warn_caller(
                f"{len(x) - kept} of {len(x)} simulations have NaN or infinite data and are left out: what is learned is the law "
                "of parameters whose simulation succeeds."
            )
        return cls(theta[whole], x[whole], len(x) - kept)

    def plus(self, other: Pairs) -> Pairs:
        """Return these pairs followed by others."""
        return Pairs(torch.cat([self.theta, other.theta]), torch.cat([self.x, other.x]), self.lost + other.lost)


@check_arguments
def draw_pairs(
    prior: Any,
    simulator: Callable[..., Any],
    n: int,
    *,
    batched: bool = True,
    seed: int | None = None,
    progress: bool | None = None,
) -> Pairs:
    """Draw parameters from a prior, simulate data from each, and return the `Pairs`.

    Parameters
    ----------
    prior
        A law of vectors, of ``torch.distributions`` or of this library, or a `Truncated` one.
    simulator
        Called as ``simulator(theta)`` with parameters ``(n, d)``, it returns data ``(n, *)``, a tensor or an array: NaN for a
        simulation that failed. What it raises ends the run, with a note of the parameters.
    n
        The number of pairs to simulate.
    batched
        Whether the simulator takes all parameters at once; otherwise it is called with one vector ``(d,)`` at a time, and returns
        one datum.
    seed
        The seed of the prior's draws, and of the simulator's by torch, NumPy or ``random``, whose global states are restored; by
        default torch's own generator draws it.
    progress
        Whether to show a bar if simulations go one at a time; by default on a terminal and in a notebook.

    Returns
    -------
    Pairs
        The pairs whose data are finite; others are left out and counted, with a warning.

    Raises
    ------
    TypeError
        If the prior is not a law, the simulator not a function, or its data are not numbers.
    ValueError
        If draws are not vectors, data have not a row for each, or all data hold NaN or infinite values.

    Warns
    -----
    UserWarning
        If a batched simulator mixes the rows of its batch, for which it is called with two vectors a few times before the run; or
        if simulations are left out.

    Examples
    --------
    >>> import torch
    >>> prior = torch.distributions.Uniform(-torch.ones(2), torch.ones(2))
    >>> pairs = draw_pairs(prior, lambda theta: theta + 0.1 * torch.randn_like(theta), 100, seed=0)
    >>> pairs.theta.shape, pairs.x.shape, pairs.lost
    (torch.Size([100, 2]), torch.Size([100, 2]), 0)
    """
    n, simulator = check_count("n", n), check_call("simulator", simulator, ["theta"])
    generator = torch.Generator().manual_seed(as_seed(None, None) if seed is None else seed)
    theta = ask_draws(as_law(check_law("prior", prior)), n, generator).to(torch.get_default_dtype())
    if theta.ndim != 2:
        raise ValueError(
            f"prior draws {n} parameters of shape {tuple(theta.shape)}; give a law of vectors, whose draws are ({n}, d)."
        )
    if batched and n > 1:
        _warn_of_mixing(simulator, theta[:2])
    with seeded(generator):  # the simulator gets parameters of its own, which it may change in place
        if batched:
            return Pairs.of(theta, _simulate(simulator, theta))
        each = tqdm(theta, desc="simulations", disable=not should_show(progress))
        return Pairs.of(theta, torch.stack([_simulate(simulator, one) for one in each]))


def _warn_of_mixing(simulator: Callable[..., Any], theta: Tensor) -> None:
    """Warn if the data that a simulator makes of one vector depend on the other in its batch, by more than the error of an
    adaptive solver, which chooses its steps for all rows together.
    """

    def simulate(theta: Tensor) -> Tensor:
        x = _as_data(simulator(theta.clone()))
        return x if len(x) == 2 else x.new_zeros(2)  # the run itself refuses another number of rows

    try:
        mixes = mixes_rows(simulate, theta, tolerance=0.01)
    except Exception:  # whatever it is, the run itself meets and reports it
        return
    if mixes:
        warn_caller(
            "simulator gives other data to a vector of parameters when another stands beside it, as where it subtracts a mean "
            "over the batch: pairs are then not of one law; let each row depend on its own parameters alone, or give "
            "batched=False."
        )


def _simulate(simulator: Callable[..., Any], theta: Tensor) -> Tensor:
    """Run the simulator on a copy of parameters ``(n, d)`` or ``(d,)``, and return its data; errors get a note of a remedy."""
    try:
        x = simulator(theta.clone())
    except Exception as failure:
        failure.add_note(
            f"The simulator was called with all parameters at once, {tuple(theta.shape)}: batched=False calls it with one vector."
            if theta.ndim == 2
            else f"The simulator failed at theta = {theta.tolist()}: have it return NaN there, of the shape of its data, and the "
            "simulation is left out and counted."
        )
        raise
    return _as_data(x)


def _as_data(x: Any) -> Tensor:
    """Return what a simulator returned as a tensor of floating-point numbers."""
    try:
        data = with_all_digits(x).detach()
    except (TypeError, ValueError, RuntimeError, LookupError):  # as of a table of pandas
        raise TypeError(
            f"simulator returned {type(x).__name__}; it must return a tensor or an array of numbers."
        ) from None
    if data.is_complex():
        raise TypeError(f"simulator returned {data.dtype}; it must return real numbers, as torch.view_as_real gives.")
    return data if data.is_floating_point() else data.double()
