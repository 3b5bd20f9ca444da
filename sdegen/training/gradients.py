"""Gradients of the mean loss of a batch, at once, accumulated over parts, or shared by several processes, with equal results."""

from __future__ import annotations

__all__ = ["Gradient", "answering"]

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..answers import check_answer
from ..conditions import conditions_of, has_rows
from ..data import Batch
from ..data.parts import part_of
from .checkpoints import Checkpoint
from .copies import FloatCopies
from .finite import NonFiniteLoss
from .score_loss import ScoreLoss
from .workers import Workers


class Gradient:
    """The gradient of the mean loss of a batch, ``∇ (1/B) Σ_i loss_i``, with the network evaluated on a part of the rows
    at a time.

    Times, noise and pooled targets belong to the batch, not to a part: for every part the loss of the whole batch is computed
    with the same random numbers, while the network is evaluated only on the rows of the part. So `accumulate` parts on each of
    several processes give the gradient of one pass to rounding, whatever the loss, with a fraction of its memory; the draws are
    repeated for each part. This does not hold for networks that mix the rows of a batch (batch normalisation), draw numbers of
    their own (dropout) or continue an iteration at every call (spectral normalisation).

    Parameters
    ----------
    model, objective
        ``objective(model, x, generator=, **cond)`` returns one value per datum, each a function of the network at its row.
    parameters
        The tensors to differentiate by.
    generator
        Randomness of times and noise.
    workers
        The operating system's processes that share the rows of a batch.
    accumulate
        The number of parts on each process.
    autocast
        The network's precision, ``torch.bfloat16`` or None for that of its weights. Losses, SDEs and weights keep their
        precision.
    copies
        The float32 copies of weights of half precision, to which gradients are added; None if no weight has a copy.

    Attributes
    ----------
    of_data
        Whether the model learns the law of the data (`ScoreLoss`).
    reason
        Why the loss of this worker's rows was not finite, kept until all workers know of it.

    Raises
    ------
    TypeError
        If the network is needed by itself and the model has no network named `net`.
    ValueError
        If a batch in parts has fewer rows than parts, the loss is not one value per datum, a loss that draws whole paths is to be
        computed in parts, or a gradient is asked for under ``torch.autocast``.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Callable[..., Tensor],
        parameters: list[Tensor],
        generator: torch.Generator,
        workers: Workers,
        accumulate: int = 1,
        autocast: torch.dtype | None = None,
        copies: FloatCopies | None = None,
    ) -> None:
        self.copies = copies
        self.model, self.parameters = model, parameters
        begun = objective.begin() if isinstance(objective, ScoreLoss) else objective
        self.objective: Callable[..., Tensor] = begun
        self.generator, self.workers, self.autocast = generator, workers, autocast
        self.accumulate, self.parts = accumulate, accumulate * workers.number
        net = getattr(model, "net", None)
        if not isinstance(net, nn.Module) and (self.parts > 1 or autocast is not None or copies is not None):
            raise TypeError(
                f"{type(model).__name__} has no network named net, which accumulate, autocast, several processes and weights of "
                "half precision ask apart from its loss; keep it as self.net, or train in one process with none of these."
            )
        self.net: Any = net
        self.of_data = not isinstance(objective, ScoreLoss) or objective.of_data
        if self.parts > 1 and not self.of_data:
            raise ValueError(
                f"{type(objective).__name__} draws whole paths with the network, which cannot be asked about a part of the rows; "
                "train in one process without accumulate, and with smaller batches."
            )
        self.reason: str | None = None

    def __call__(self, batch: Batch) -> Tensor:
        """Add the gradient of the mean loss to the parameters' own, and return the mean loss."""
        x = batch.x  # a function would cost a call in every step
        if not x.is_meta and torch.is_autocast_enabled(x.device.type):
            raise ValueError(
                "training was called under torch.autocast, which would cast losses and gradients too; call it outside of that, "
                "with autocast=torch.bfloat16, which reaches the network alone."
            )
        if len(batch.x) < self.parts:
            raise ValueError(
                f"a batch of {len(batch.x)} rows cannot be split in {self.parts} parts; give larger batches."
            )
        first, shares = self.workers.rank * self.accumulate, []
        draws = self.generator.get_state() if self.accumulate > 1 else None
        for i in range(first, first + self.accumulate):
            if draws is not None:
                self.generator.set_state(draws)
            try:
                rows = part_of(len(batch.x), self.parts, i) if self.parts > 1 else slice(0, len(batch.x))
                values = self.values(batch, self.generator, rows)
            except NonFiniteLoss as error:
                if self.workers.number == 1:
                    raise
                # The other processes wait for a gradient: the sum, which is NaN, tells them.
                self.reason = str(error)
                shares.append(batch.x.new_tensor(torch.nan))
                break
            if not values.requires_grad:
                raise ValueError(
                    "the loss has no gradient; train outside torch.no_grad() and torch.inference_mode(), and let the network and "
                    "the loss answer without detach()."
                )
            share = values[rows].sum() / len(values) if self.parts > 1 else values.mean()
            share.backward()
            if self.copies is not None:
                self.copies.take_gradients()
            shares.append(share.detach())
        loss = sum(shares[1:], start=shares[0])
        return loss if self.workers.number == 1 else self.workers.add(loss, self.parameters)

    def state(self) -> dict[str, Tensor]:
        """Return what the loss keeps from step to step, as tensors by name (`ScoreLoss.state`)."""
        kept = self.objective.state() if isinstance(self.objective, ScoreLoss) else {}
        return {f"loss:{name}": value for name, value in kept.items()}

    def restore(self, kept: Checkpoint) -> None:
        """Go back to what the loss kept at a checkpoint.

        Raises
        ------
        ValueError
            If that is not whole.
        """
        if isinstance(self.objective, ScoreLoss):
            device = self.parameters[0].device
            try:
                self.objective.restore({name: value.to(device) for name, value in kept.part("loss").items()})
            except ValueError as error:
                raise ValueError(
                    f"{kept.path} does not hold what the loss had kept ({error}); delete it, and the run goes on from the one "
                    "before."
                ) from None

    def values(self, batch: Batch, generator: torch.Generator, rows: slice) -> Tensor:
        """Return the loss of each datum, checked for its shape; only the values of `rows` are computed with the network."""
        plain = rows == slice(0, len(batch.x)) and self.autocast is None and self.copies is None
        one = nullcontext() if plain else answering(self.net, rows, len(batch.x), self.autocast)
        with one:
            values = self.objective(self.model, batch.x, generator=generator, **batch.cond)
        return check_answer("the loss", values, batch.x.shape[:1], must="one value per datum")


@contextmanager
def answering(net: nn.Module, rows: slice, size: int, autocast: torch.dtype | None) -> Iterator[None]:
    """Make a network compute only `rows` of a batch of `size` within a ``with`` block, and return 0 for the others.

    It may compute in another precision; a network of half precision is called in its own dtype, and its answer is returned in the
    dtype of the state.

    Raises
    ------
    ValueError
        If it is to compute only some rows, and is called with another number of rows than the batch has.
    """
    whole, own = net.forward, net.__dict__.get("forward")
    taken = conditions_of(net)
    own_dtype = next((p.dtype for p in net.parameters() if p.is_floating_point() and p.dtype.itemsize <= 2), None)

    def forward(x: Tensor, /, *args: Any, **cond: Any) -> Any:
        if len(x) != size and rows != slice(0, size):
            raise ValueError(
                f"the loss asked the network about {len(x)} rows for a batch of {size}; accumulate and several processes need "
                "calls with one row per datum."
            )

        def pick(value: Any) -> Any:
            return value[rows] if has_rows(value, size) else value

        given = (pick(x), *map(pick, args))
        # A network of half precision, unless its model calls it in that dtype already.
        if own_dtype is not None and x.dtype != own_dtype:
            given = tuple(v.to(own_dtype) if isinstance(v, Tensor) and v.is_floating_point() else v for v in given)
        with torch.autocast(x.device.type, dtype=autocast, enabled=autocast is not None):
            named = taken.with_rows(cond, size)
            out = whole(*given, **{name: value[rows] if name in named else value for name, value in cond.items()})
        return tuple(placed(part.to(x.dtype)) for part in out) if isinstance(out, tuple) else placed(out.to(x.dtype))

    def placed(out: Tensor) -> Tensor:
        if len(out) == size:
            return out
        before, after = (out.new_zeros(k, *out.shape[1:]) for k in (rows.start, size - rows.stop))
        return torch.cat([before, out, after])

    net.forward = forward
    try:
        yield
    finally:
        if own is None:
            del net.forward
        else:
            net.forward = own
