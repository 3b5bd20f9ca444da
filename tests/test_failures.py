"""What Python and torch say barely is said in a sentence: the end of an iterator of the user's, tensors without derivatives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdegen
from sdegen import samplers
from sdegen.training import Settings, Training, train

RING = sdegen.data.gaussian_ring()
EXACT = sdegen.Exact(sdegen.VP(), RING)
X = RING.sample(16, torch.Generator().manual_seed(0)).float()
SMALL: dict[str, Any] = {"steps": 3, "batch_size": 8, "progress": False}


def used_up(*given: Any, **named: Any) -> Any:
    """Ask an iterator that has nothing left."""
    return next(iter(()))


class UsedUp(nn.Module):
    """A network that asks one."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        return used_up()


def small(net: nn.Module | None = None) -> sdegen.Model:
    model = sdegen.Model(sdegen.nets.MLP(2, width=8, depth=1) if net is None else net, sdegen.VP())
    model.moments = RING.moments()
    return model


def batches() -> Iterator[Tensor]:
    """Batches, of which the third asks such an iterator."""
    yield from (X[:8], X[8:])
    yield used_up()


ENDS: dict[str, Callable[[], Any]] = {
    "fit, a callback": lambda: sdegen.fit(small(), X, callbacks=[used_up], **SMALL),
    "fit, the network": lambda: sdegen.fit(small(UsedUp()), X, **SMALL),
    "fit, the loss": lambda: sdegen.fit(small(), X, loss=lambda model, x, generator=None: used_up(), **SMALL),
    "fit, the schedule": lambda: sdegen.fit(small(), X, schedule=lambda done: used_up(), **SMALL),
    "Stream, the data": lambda: sdegen.fit(small(), batches(), **SMALL),
    "sample, a callback": lambda: sdegen.sample(EXACT, 3, steps=2, callback=used_up),
    "sample, the network": lambda: sdegen.sample(small(UsedUp()), 3, steps=2),
    "sample, guesses": lambda: sdegen.sample(small(UsedUp()), 3, steps=3, parallel=2),
    "sample, noise": lambda: sdegen.sample(EXACT, 3, sampler=samplers.Ancestral(3), noise=lambda *_: used_up),
    "estimate_log_prob, the network": lambda: sdegen.log_prob(small(UsedUp()), X[:2]),
    "encode, the network": lambda: samplers.encode(small(UsedUp()), X[:2]),
}


@pytest.mark.parametrize("case", ENDS)
def test_the_end_of_an_iterator_of_the_user_s_is_told_with_its_place(case: str) -> None:
    """Barely it would end what goes through calls of the library, or be another error of a generator."""
    who = case.split(",")[0]
    with pytest.raises(
        RuntimeError, match=rf"^{who} ended in a StopIteration of used_up, line \d+ of test_failures\.py, as of"
    ):
        ENDS[case]()


def test_a_loop_of_one_s_own_is_told_too() -> None:
    training = Training(small(UsedUp()), X, Settings(steps=3, batch_size=8))
    with pytest.raises(RuntimeError, match=r"^fit ended in a StopIteration of used_up"):
        next(train(training))


@pytest.mark.parametrize("failure", [GeneratorExit, KeyboardInterrupt, StopAsyncIteration])
def test_other_exceptions_of_a_callback_come_out_as_they_are(failure: type[BaseException]) -> None:
    def callback(*_: Any) -> None:
        raise failure("mine")

    for call in (
        lambda: sdegen.fit(small(), X, callbacks=[callback], **SMALL),
        lambda: sdegen.sample(EXACT, 3, steps=2, callback=callback),
    ):
        with pytest.raises(failure, match="mine"):
            call()


def test_weights_of_inference_mode_are_refused_where_derivatives_are_asked_for() -> None:
    with torch.inference_mode():
        model = small()
    assert sdegen.sample(model, 3, steps=2, seed=0).isfinite().all()
    with pytest.raises(
        ValueError, match=r"^the weight net\.\S+ was made under torch\.inference_mode\(\) and has no derivatives"
    ):
        sdegen.fit(model, X, **SMALL)
    with pytest.raises(
        RuntimeError, match=r"^sample needs derivatives, and comes upon a tensor that was made under torch\.inf"
    ):
        sdegen.sample(model, 3, steps=2, grad=True)
    assert sdegen.fit(deepcopy(model), X, **SMALL).steps == 3


def test_a_frozen_part_of_inference_mode_that_derivatives_go_through_is_refused() -> None:
    class Scaled(nn.Module):
        """Two layers; the frozen second one is linear in what the first has learned."""

        def __init__(self) -> None:
            super().__init__()
            self.learned = nn.Linear(2, 2)
            with torch.inference_mode():
                self.frozen = nn.Linear(2, 2).requires_grad_(False)

        def forward(self, x: Tensor, level: Tensor) -> Tensor:
            return self.frozen(self.learned(x))

    with pytest.raises(
        RuntimeError, match=r"^fit needs derivatives, and comes upon a tensor that was made under torch\.inf"
    ):
        sdegen.fit(small(Scaled()), X, **SMALL)
    assert sdegen.fit(deepcopy(small(Scaled())), X, **SMALL).steps == 3


MAPPED: dict[str, Callable[[Tensor], Tensor]] = {
    "sample": lambda x: sdegen.sample(EXACT, x_T=x[None], steps=2)[0],
    "log_prob": lambda x: sdegen.log_prob(EXACT, x[None])[0],
    "elbo": lambda x: sdegen.elbo(EXACT, x[None], draws=2).value,
    "encode": lambda x: samplers.encode(EXACT, x[None], steps=2)[0],
}


@pytest.mark.parametrize("door", MAPPED)
def test_what_vmap_cannot_follow_is_told_in_a_sentence(door: str) -> None:
    with pytest.raises(
        RuntimeError, match=r"which torch\.func\.vmap does not follow; call it once, with all rows in a batch"
    ):
        torch.func.vmap(MAPPED[door])(X[:3].double())
