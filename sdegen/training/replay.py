"""End points of earlier steps, kept and moved, for losses of a law that is known up to a constant: `Replay`."""

from __future__ import annotations

__all__ = ["Kept", "Memory", "Replay", "Replaying", "temper"]

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Self

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_count, check_number
from ..fixed import Fixed
from ..guidance.moves import check_log_density, first_step, look, move
from ..guidance.particles import log_mean_exp
from ..models.score import ScoreModel
from ..show import show_call
from .finite import NonFiniteLoss
from .score_loss import ScoreLoss

SHARE = 0.5  # of the samples, which tempered weights leave effective
SPREAD = 3.0  # nats between the longest Langevin step and the shortest
ACCEPTED = 0.5  # share of the steps that is to be accepted, by which the longest is set


class Replay(Fixed):
    """End points of the model's earlier paths, kept over the steps of a training, moved in the law, and noised to paths anew.

    Of a batch the part `share` begins with ends that were kept: drawn by their weights, or by powers of these that leave half of
    them effective, and noised by the exact kernels of the forward process. The other part are paths of the model, whose ends and
    weights are kept in turn, the oldest forgotten. At every so many steps all that are kept take Langevin steps, accepted by
    Metropolis and Hastings. These leave the law as it is, so that an end has its weight on: the weighted ends are those of the
    law, whatever the model has become since. What a mode holds is so learned also where the model has no paths any more, but
    not found where it never had one.

    A path of a kept end costs the network the evaluations with derivatives alone. The density is asked for ``moves + 1`` times,
    with its slope, of all ends that are kept, once in `every` steps. M. Sendera et al., *Improved off-policy training of
    diffusion samplers*, 2024, arXiv:2402.05098; for adjoint matching A. Havens et al., *Adjoint sampling*, 2025,
    arXiv:2504.11713.

    Parameters
    ----------
    size
        Ends that are kept, at most.
    share
        Of a batch, what begins with them; a batch has at least one path of the model.
    moves
        Langevin steps at a time; none for a density without a slope.
    every
        Steps of the training from one time to the next.

    Raises
    ------
    ValueError
        If a number is out of its bounds.

    Examples
    --------
    >>> import sdegen
    >>> ring = sdegen.data.gaussian_ring()
    >>> loss = sdegen.training.LogVariance(ring.log_prob, steps=5, replay=Replay(size=100))
    >>> model = sdegen.Model(sdegen.nets.MLP(2, width=8), sdegen.VP())
    >>> sdegen.fit(model, ring, loss=loss, steps=3, batch_size=8, seed=0).steps
    3
    """

    __repr__ = show_call

    @check_arguments
    def __init__(self, size: int = 8000, share: float = 0.5, moves: int = 4, every: int = 40) -> None:
        self.size, self.share = check_count("size", size), check_number("share", share, above=0, below=1)
        self.moves, self.every = check_count("moves", moves, at_least=0), check_count("every", every)


class Kept(NamedTuple):
    """Ends of paths and the logarithms of their weights, up to one constant.

    Attributes
    ----------
    x
        Data, ``(n, *)``.
    log_weights
        ``(n,)`` float64.
    """

    x: Tensor
    log_weights: Tensor


class Memory:
    """What one training keeps for `Replay` from step to step: ends of paths with their weights, and the length of their steps.

    Parameters
    ----------
    replay
        What is kept, and how it is used.
    """

    def __init__(self, replay: Replay) -> None:
        self.replay, self.calls, self.step = replay, 0, 0.0
        self.kept: Kept | None = None

    def fresh(self, n: int) -> int:
        """Return how many paths of a batch are to be the model's own."""
        return n if self.kept is None else max(1, n - round(self.replay.share * n))

    def draw(self, n: int, generator: torch.Generator | None) -> Kept:
        """Draw ends by powers of their weights, with the weights that are left to them."""
        assert self.kept is not None  # `fresh` has said so
        x, log_weights = self.kept
        tempered = temper(log_weights, SHARE)
        chosen = torch.multinomial(tempered.softmax(0), n, replacement=True, generator=generator)
        left = log_weights - tempered + log_mean_exp(tempered)
        return Kept(x[chosen.to(x.device)], left[chosen])

    def take(
        self,
        x: Tensor,
        log_weights: Tensor,
        log_prob: Callable[[Tensor], Tensor],
        generator: torch.Generator | None,
    ) -> None:
        """Keep the ends of a step's own paths, but for those of weight 0, and move all that are kept when it is time.

        Parameters
        ----------
        x, log_weights
            Data, ``(n, *)``, and ``(n,)``.
        log_prob
            The logarithm of the density.
        generator
            Randomness.

        Raises
        ------
        NonFiniteLoss
            If the density or its slope is of no use where an end is moved to.
        ValueError
            If it has no slope.
        """
        new = Kept(x.detach(), log_weights.detach().double().cpu())
        known = new.log_weights.isfinite()
        new = Kept(new.x[known.to(x.device)], new.log_weights[known])
        old = new if self.kept is None else Kept(*map(torch.cat, zip(self.kept, new, strict=True)))
        self.kept, self.calls = Kept(*(part[-self.replay.size :] for part in old)), self.calls + 1
        if self.replay.moves and self.calls % self.replay.every == 0:
            self.move(log_prob, generator)

    def move(self, log_prob: Callable[[Tensor], Tensor], generator: torch.Generator | None) -> None:
        """Take the Langevin steps of one time.

        Parameters
        ----------
        log_prob, generator
            As for `take`.

        Raises
        ------
        NonFiniteLoss, ValueError
            As `take`.
        """
        assert self.kept is not None
        check = partial(check_log_density, error=NonFiniteLoss)
        instead = ", or keep ends where they are, by Replay(moves=0)"
        look_at = partial(look, log_prob, check=check, instead=instead, error=NonFiniteLoss)
        at = look_at(self.kept.x)
        if not self.step:
            self.step = first_step((at.x - at.x.mean(0)).square().mean().item(), at.x)
        for _ in range(self.replay.moves):
            at, accepted = move(at, look_at, lambda at: (at.log_f, at.slope), self.step, SPREAD, generator)
            self.step *= math.exp(accepted - ACCEPTED)
        self.kept = self.kept._replace(x=at.x)

    def state(self) -> dict[str, Tensor]:
        """Return all of it as tensors by name; none before the first step."""
        numbers = torch.tensor([self.calls, self.step], dtype=torch.float64)
        return {} if self.kept is None else self.kept._asdict() | {"numbers": numbers}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go back to what `state` returned after a step.

        Parameters
        ----------
        state
            Tensors by name.

        Raises
        ------
        ValueError
            If one is not there, or they do not fit together.
        """
        missing = [name for name in ("x", "log_weights", "numbers") if name not in state]
        if missing:
            raise ValueError(f"{missing[0]} is not there")
        x, log_weights, numbers = state["x"], state["log_weights"].cpu(), state["numbers"].cpu()
        n = len(log_weights) if log_weights.ndim == 1 else 0
        if not 0 < n <= self.replay.size or x.shape[:1] != (n,) or numbers.shape != (2,):
            raise ValueError(
                f"ends are {tuple(x.shape)}, weights {tuple(log_weights.shape)}, numbers {tuple(numbers.shape)}"
            )
        self.kept, self.calls, self.step = Kept(x, log_weights), int(numbers[0]), numbers[1].item()


class Replaying(ScoreLoss):
    """The base class of losses that keep ends of paths, as their `replay` says, once a training has begun with them.

    Attributes
    ----------
    replay
        What is kept; None for nothing.
    log_prob
        The logarithm of the density.
    """

    replay: Replay | None
    log_prob: Callable[[Tensor], Tensor]
    _memory: Memory | None = None

    def begin(self) -> Self:
        """Return the loss for one training, with a memory of its own that is still empty; the loss itself if it keeps nothing."""
        if self.replay is None:
            return self
        begun = copy.copy(self)
        begun._memory = Memory(self.replay)
        return begun

    def state(self) -> dict[str, Tensor]:
        """Return what is kept, as tensors by name."""
        return {} if self._memory is None else self._memory.state()

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go back to what `state` returned.

        Raises
        ------
        ValueError
            If that is not whole.
        """
        if self._memory is None:
            return super().restore(state)
        return self._memory.restore(state)

    def memory(self) -> Memory | None:
        """Return the memory; None if nothing is kept.

        Raises
        ------
        ValueError
            If there is to be one, and no training has begun.
        """
        if self.replay is not None and self._memory is None:
            raise ValueError(
                f"{type(self).__name__} replays ends of earlier steps, which fit keeps for the loss that it is given itself; "
                "call loss.begin() once, and at every step what that returns."
            )
        return self._memory

    def keep(self, model: ScoreModel, x: Tensor, log_weights: Tensor, generator: torch.Generator | None) -> None:
        """Keep the ends of a step's own paths and move all that are kept when it is time (`Memory.take`); nothing changes where
        nothing is kept, or where the model is in evaluation mode, as for a validation.
        """
        if self._memory is not None and getattr(model, "training", True):
            self._memory.take(x, log_weights, self.log_prob, generator)


def temper(log_weights: Tensor, share: float) -> Tensor:
    """Return log-weights times the largest factor, 1 at most, for which a `share` of the samples is effective."""

    def enough(power: float) -> bool:
        return (power * log_weights).softmax(0).square().sum().item() * len(log_weights) * share <= 1

    low, power = 0.0, 1.0
    if enough(power):
        return log_weights
    for _ in range(20):
        middle = 0.5 * (low + power)
        low, power = (middle, power) if enough(middle) else (low, middle)
    return power * log_weights
