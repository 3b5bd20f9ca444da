"""Divergences of networks of every make: those without forward-mode derivatives are found out once, and given by reverse mode."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sdegen
from sdegen import guidance, losses
from sdegen.laws import products
from sdegen.laws.derivatives import (
    Divergence,
    ExactDivergence,
    Hutchinson,
    HutchPlusPlus,
    exact_divergence,
    hutchinson_divergences,
)
from sdegen.laws.products import Products, pulled_back, value_and_slope

D = 4
DIVERGENCES: list[Divergence] = [ExactDivergence(), Hutchinson(3), HutchPlusPlus(2)]


class Sine(torch.autograd.Function):
    """A function with a backward pass by hand, and no other derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0].cos()


class Tokens(nn.Module):
    """A network on the coordinates of a datum as tokens: in, something of torch's, out."""

    def __init__(self, inner: nn.Module, of: Callable[[nn.Module, Tensor], Tensor], width: int = 8) -> None:
        super().__init__()
        self.first, self.inner, self.last, self.of = nn.Linear(2, width), inner, nn.Linear(width, 1), of

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        h = torch.stack([x, level[:, None].expand(x.shape).to(x)], -1)
        return self.last(self.of(self.inner, self.first(h)))[..., 0]


class Flat(nn.Module):
    """A network on a datum as a vector."""

    def __init__(self, of: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.of = nn.Linear(D, 8), nn.Linear(8, D), of

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        return self.last(self.of(self.first(x) + level[:, None]))


def fused(inner: nn.Module, h: Tensor) -> Tensor:
    q, k, v = inner(h).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def in_place(h: Tensor) -> Tensor:
    out = torch.zeros(h.shape, dtype=h.dtype)
    out[:] = h.tanh()
    return out


def decided(h: Tensor) -> Tensor:
    return h.tanh() if h.abs().sum().item() > 0 else h


def images(net: nn.Module) -> nn.Module:
    class Folded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor, level: Tensor) -> Tensor:
            return self.net(x.reshape(-1, 1, 2, 2), level).reshape(x.shape)

    return Folded()


def only_attended(m: nn.MultiheadAttention, h: Tensor) -> Tensor:
    return m(h, h, h, need_weights=False)[0]


NETS: dict[str, Callable[[], nn.Module]] = {
    "MLP": lambda: sdegen.nets.MLP(D, 16, 1),
    "MultiheadAttention": lambda: Tokens(nn.MultiheadAttention(8, 2, batch_first=True), only_attended),
    "encoder layer": lambda: Tokens(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), lambda m, h: m(h)),
    "fused attention": lambda: Tokens(nn.Linear(8, 24), fused),
    "LSTM": lambda: Tokens(nn.LSTM(8, 8, batch_first=True), lambda m, h: m(h)[0]),
    "GRU": lambda: Tokens(nn.GRU(8, 8, batch_first=True), lambda m, h: m(h)[0]),
    "GroupNorm": lambda: Tokens(nn.GroupNorm(2, 8), lambda m, h: m(h.mT).mT),
    "a backward by hand": lambda: Flat(Sine.apply),
    "in place": lambda: Flat(in_place),
    "a branch on the state": lambda: Flat(decided),
    "our transformer": lambda: sdegen.nets.CoordinateTransformer(D, 16, 1, 2),
    "our DiT": lambda: images(sdegen.nets.DiT(1, patch=1, width=16, depth=1, heads=2)),
}  # fmt: skip


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    net = NETS[name]().double().eval()
    for p in net.parameters():  # last layers of ours start at 0
        if not p.any():
            nn.init.normal_(p, std=0.3)
    return net


def points(n: int = 3) -> Tensor:
    return torch.randn(n, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def by_differences(field: Callable[[Tensor], Tensor], x: Tensor, h: float = 1e-5) -> Tensor:
    """The Jacobian of each row, ``(B, d, d)``, by central differences."""
    columns = [(field(x + h * e) - field(x - h * e)) / (2 * h) for e in torch.eye(D, dtype=x.dtype)]
    return torch.stack(columns, 2)


@pytest.mark.parametrize("name", NETS)
def test_divergences_are_those_of_finite_differences(name: str) -> None:
    net, x = made(name), points()
    field = lambda y: net(y, torch.full((len(y),), 0.3, dtype=y.dtype))
    with torch.no_grad():
        J = by_differences(field, x)
        for divergence in DIVERGENCES:
            drawn = divergence.draw(x, torch.Generator().manual_seed(2))
            value, found = divergence.along(lambda place: field, x, drawn).of(field, x)
            torch.testing.assert_close(value, field(x), rtol=0, atol=1e-9)
            assert not value.requires_grad
            trace = J.diagonal(dim1=1, dim2=2).sum(1)
            if isinstance(divergence, HutchPlusPlus):
                assert drawn is not None
                continue
            want = trace if drawn is None else torch.einsum("mbi,bij,mbj->mb", drawn, J, drawn)
            torch.testing.assert_close(found, want.expand(found.shape), rtol=1e-6, atol=1e-7)
        whole = HutchPlusPlus(D)  # as many directions as coordinates: exact
        found = whole(field, x, torch.Generator().manual_seed(2))[1]
        torch.testing.assert_close(found, trace, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", NETS)
def test_both_modes_give_the_same_traces(name: str) -> None:
    net, x, v = made(name), points(), torch.randn(3, 3, D, dtype=torch.float64)
    field = lambda y: net(y, torch.full((len(y),), 0.3, dtype=y.dtype))
    reverse = Products()
    reverse.forward = False
    with torch.no_grad():
        torch.testing.assert_close(
            hutchinson_divergences(field, x, v)[1],
            hutchinson_divergences(field, x, v, reverse)[1],
            rtol=1e-9,
            atol=1e-9,
        )


@pytest.mark.parametrize("name", NETS)
@pytest.mark.turns("our DiT", "encoder layer", "LSTM", "GRU", "MultiheadAttention")
def test_likelihoods_and_losses_take_every_network(name: str) -> None:
    model = sdegen.Model(made(name), sdegen.VP()).double()
    law = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, D), torch.ones(1))
    model.moments, x = law.moments(), points(2)
    exact = sdegen.log_prob(model, x, tolerance=1e-3)
    estimated = sdegen.log_prob(model, x, tolerance=1e-3, divergence=HutchPlusPlus(D))
    assert (exact - estimated).abs().max() < 0.02
    for divergence in DIVERGENCES[:2]:
        loss = losses.Implicit(divergence=divergence)(model, x, torch.Generator().manual_seed(0)).mean()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", ["MLP", "fused attention", "LSTM", "a backward by hand", "MultiheadAttention"])
def test_the_gradient_of_implicit_score_matching_is_that_of_finite_differences(name: str) -> None:
    model = sdegen.Model(made(name), sdegen.VP()).double()
    loss = lambda: losses.Implicit()(model, points(), torch.Generator().manual_seed(0)).mean()
    weight = next(p for p in model.parameters() if p.ndim == 2)
    loss().backward()
    assert weight.grad is not None
    direction = torch.randn(weight.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    want, h = (weight.grad * direction).sum(), 1e-5
    with torch.no_grad():
        weight += h * direction
    up = loss().item()
    with torch.no_grad():
        weight -= 2 * h * direction
    down = loss().item()
    assert abs((up - down) / (2 * h) - want) < 1e-5 * (1 + abs(want))


class Through(nn.Module):
    """A classifier of states, or a measurement, through a function with a backward pass by hand."""

    def __init__(self, by_hand: bool) -> None:
        super().__init__()
        self.of = Sine.apply if by_hand else torch.sin
        weights = torch.randn(D, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
        self.weights = nn.Parameter(weights)

    def forward(self, x: Tensor, t: Tensor | float) -> Tensor:
        return self.of(x @ self.weights)


class Bent(sdegen.measurements.Measurement):
    """A measurement that is not linear."""

    def __init__(self, by_hand: bool) -> None:
        super().__init__(0.5)
        self.of = Through(by_hand)

    def __call__(self, x: Tensor) -> Tensor:
        return self.of(x, 0.0)


LAW = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, D), torch.ones(1))
GUIDED: dict[str, Callable[[bool], sdegen.ScoreModel]] = {
    "classifier": lambda by_hand: sdegen.models.Conditioned(
        guidance.ClassifierGuidance(sdegen.Exact(sdegen.VP(), LAW), Through(by_hand)), label=1
    ),
    "measurement": lambda by_hand: sdegen.models.Conditioned(
        guidance.DPS(sdegen.Exact(sdegen.VP(), LAW), Bent(by_hand), scale=0.1), y=torch.ones(2, 3).double()
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GUIDED)
def test_guidance_through_a_backward_by_hand_is_that_through_torch(name: str) -> None:
    model, same = (GUIDED[name](by_hand) for by_hand in (True, False))
    x = points(2)
    with torch.no_grad():
        for reading in ("score", "denoise", "noise"):
            found = getattr(model, reading)(x, 0.4)
            assert not found.requires_grad
            torch.testing.assert_close(found, getattr(same, reading)(x, 0.4), rtol=1e-9, atol=1e-9)
    run = lambda m: sdegen.sample(m, x_T=x, steps=5, seed=0)
    torch.testing.assert_close(run(model), run(same), rtol=1e-9, atol=1e-9)
    density = lambda m: sdegen.log_prob(m, x, method="heun2", steps=6)
    torch.testing.assert_close(density(model), density(same), rtol=1e-7, atol=1e-7)
    slopes = []
    for m in (model, same):
        at = x.clone().requires_grad_()
        slopes.append(torch.autograd.grad(sdegen.sample(m, x_T=at, steps=5, seed=0, grad=True).sum(), at)[0])
    torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-9)


def test_a_run_finds_out_once() -> None:
    calls = []

    class Counted(nn.Module):
        def forward(self, x: Tensor, level: Tensor) -> Tensor:
            calls.append(torch._C._functorch.is_functorch_wrapped_tensor(x))
            return Sine.apply(x)

    model = sdegen.Model(Counted(), sdegen.VP())
    model.moments = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, D), torch.ones(1)).moments()
    for divergence in DIVERGENCES:
        calls.clear()
        found = sdegen.estimate_log_prob(model, points(), divergence=divergence, tolerance=1e-2)
        # Once by the check of the derivatives before the run, and once by the run.
        assert sum(calls) == 2 and len(calls) >= found.evaluations


@pytest.mark.parametrize("wide", [1, 7])
def test_memory_is_bounded_by_following_few_directions_at_once(wide: int) -> None:
    """As many as the largest tensor of the field allows, counted in numbers; views and what is no result do not count."""
    held = []

    def field(y: Tensor) -> Tensor:
        assert y.shape == (5, 300)
        y.expand(10**6, 5, 300)
        return torch.cat([y.square()] * wide, 1).unflatten(1, (wide, 300)).mean(1) * torch.arange(300)

    class Watched(Products):
        def __call__(self, field, x, directions, either=False):
            held.append(directions.numel())
            return super().__call__(field, x, directions, either)

    x = torch.randn(5, 300)
    for numbers, few, together in ((10 * 1500 * wide + 99, 0, 10), (1500, 0, 1), (10**9, 0, 300), (1, 300 * 1500, 300)):
        held.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sdegen.laws.products.HELD", numbers), patch.setattr("sdegen.laws.products.FEW", few)
            _, found = exact_divergence(field, x, Watched())
        assert max(held) == together * 1500 and sum(held) == 300 * 1500
        torch.testing.assert_close(found, (2 * x * torch.arange(300)).sum(1), rtol=1e-5, atol=1e-2)


def test_an_answer_without_derivatives_is_refused() -> None:
    class Outside(nn.Module):
        """Computed by NumPy."""

        def forward(self, x: Tensor, level: Tensor) -> Tensor:
            return torch.from_numpy(x.detach().numpy() ** 3)

    class Closed(nn.Module):
        def forward(self, x: Tensor, level: Tensor) -> Tensor:
            with torch.no_grad():
                return Sine.apply(x)

    for net in (Outside(), Closed()):
        field = lambda y, net=net: net(y, torch.zeros(len(y)))
        with pytest.raises(ValueError, match="has no derivative by the state"):
            exact_divergence(field, points())


def test_errors_of_a_network_stay_its_own() -> None:
    def field(y: Tensor) -> Tensor:
        raise RuntimeError("out of paper")

    with pytest.raises(RuntimeError, match="out of paper"):
        exact_divergence(field, points())
    weight = torch.ones(D, dtype=torch.float64, requires_grad=True)
    value, back = pulled_back(
        lambda y: (y.detach() * 0 + 1) * weight, points(), points()[None]
    )  # constant in the state
    assert (value == 1).all() and not back.any()
    value, back = pulled_back(lambda y: y * 2, points(), points()[None])
    assert torch.equal(back[0], 2 * points()) and torch.equal(value, 2 * points())


def test_threads_take_forward_derivatives_without_meddling_with_each_other() -> None:
    x = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(3, 2)

    def take(k: int) -> float:
        error = 0.0
        for _ in range(50):
            value, slope = value_and_slope(lambda z: (k * z).sin(), x, torch.ones_like(x))
            error = max(
                error, (slope - k * (k * x).cos()).abs().max().item(), (value - (k * x).sin()).abs().max().item()
            )
        return error

    with ThreadPoolExecutor(4) as threads:
        assert max(threads.map(take, range(1, 5))) < 1e-12


def test_reverse_mode_is_tried_at_the_second_call_of_a_run_and_taken_from_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    for name in ("value_and_slopes", "value_and_slopes_back"):

        def watched(name: str, function: Any, *args: Any) -> Any:
            asked.append(name)
            return function(*args)

        monkeypatch.setattr(products, name, partial(watched, name, getattr(products, name)))
    run, x = products.Products(), torch.randn(2, 3, dtype=torch.float64)
    with torch.no_grad():
        for want in (
            ["value_and_slopes"],
            ["value_and_slopes", *2 * ["value_and_slopes_back"]],
            ["value_and_slopes_back"],
        ):
            asked.clear()
            run(torch.sin, x, torch.ones(1, 2, 3, dtype=torch.float64), either=True)
            assert asked == want
