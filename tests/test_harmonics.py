"""What networks see on a circle and in a box: scores are periodic, or have no part through a wall, whatever the weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdegen
from sdegen import nets, samplers
from sdegen.laws.circle import wrap
from sdegen.laws.harmonics import BoxHarmonics, CircleHarmonics, Harmonics
from sdegen.laws.reflected import fold_into

d64 = torch.float64
LOW, HIGH = -0.5, 1.5


def g(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shaken(net: nn.Module, sde: sdegen.SDE, size: float = 0.2, **more: Any) -> sdegen.DirectModel:
    """A model with weights that no training would have found."""
    model = sdegen.DirectModel(net, sde, **more).to(d64)
    with torch.no_grad():
        for i, weight in enumerate(model.parameters()):
            weight += size * torch.randn(weight.shape, dtype=d64, generator=g(i))
    model.moments = sdegen.Moments(torch.zeros(2, dtype=d64), torch.ones(2, dtype=d64))
    return model


NETWORKS = {
    "perceptron": lambda d: nets.MLP(d, width=16, depth=1),
    "hypernetwork": lambda d: nets.HyperMLP(d, width=16, depth=1, rank=2),
    "transformer": lambda d: nets.CoordinateTransformer(d, width=8, depth=1, heads=2),
}


@pytest.mark.parametrize("orders", [1, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_score_on_the_circle_has_no_jump(name: str, orders: int) -> None:
    model = shaken(NETWORKS[name](4 * orders), sdegen.CircularBrownianMotion(), orders=orders)
    x = torch.tensor([[math.pi, 0.3], [1.0, -math.pi], [math.pi, math.pi]], dtype=d64)
    first, last = model.score(x, 0.3), model.score(-x * (x.abs() == math.pi) + x * (x.abs() < math.pi), 0.3)
    assert torch.equal(first, last) and first.abs().min() > 1e-3
    inside = 3 * torch.rand(5, 2, dtype=d64, generator=g())
    assert torch.allclose(model.score(inside, 0.3), model.score(inside - 4 * math.pi, 0.3), atol=1e-9)


@pytest.mark.parametrize("orders", [1, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_score_in_the_box_has_no_part_through_a_wall_and_is_mirrored_there(name: str, orders: int) -> None:
    model = shaken(NETWORKS[name](2 * orders + 2), sdegen.ReflectedBrownianMotion(LOW, HIGH), orders=orders)
    x = torch.tensor([[LOW, 0.3], [1.0, HIGH], [HIGH, LOW]], dtype=d64)
    wall = (x == LOW) | (x == HIGH)
    score = model.score(x, 0.3)
    assert (score[wall] == 0).all() and (score[~wall].abs() > 1e-3).all()
    inside = LOW + 2 * torch.rand(5, 2, dtype=d64, generator=g())
    for image in (2 * LOW - inside, 2 * HIGH - inside):
        assert torch.allclose(model.score(image, 0.3), -model.score(inside, 0.3), atol=1e-9)


@pytest.mark.parametrize("waves", [CircleHarmonics(), BoxHarmonics(-2.0, 5.0)], ids=repr)
@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 2, 3, 5)], ids=str)
def test_answers_are_taken_along_the_slopes(waves: Harmonics, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=d64, generator=g()).requires_grad_()
    noise = torch.full(shape, 1e3, dtype=d64)  # at which no wall is near or far
    shown = waves.show(x, noise, 2)
    d = shape[1] if len(shape) > 1 else 1
    many = 4 if isinstance(waves, CircleHarmonics) else 3
    assert shown.shape == (4, many * d, *shape[2:])
    orders = [1, 1, 2, 2] if many == 4 else [1, 2]
    answer = torch.randn(shown.shape, dtype=d64, generator=g(1))
    answer[:, len(orders) * d :] = 0
    k = torch.tensor(orders + [1] * (many - len(orders)), dtype=d64).repeat_interleave(d)
    weighted = answer / k.reshape(1, -1, *[1] * (shown.ndim - 2))
    (want,) = torch.autograd.grad((shown * weighted).sum() * waves.length / math.pi, x)
    assert torch.allclose(waves.score(x.detach(), answer, noise, 2), want, atol=1e-12)


def test_nearness_of_a_wall_is_that_of_its_slope() -> None:
    # The slope turns from 0 at a wall to 1 within the length of the noise, and what is shown is what its square lacks of 1.
    waves, x = BoxHarmonics(LOW, HIGH), torch.linspace(LOW, HIGH, 201, dtype=d64)[:, None]
    for size in (1e-3, 0.1, 10.0):
        noise = torch.full_like(x, size)
        slope = -waves.score(x, torch.tensor([[0.0, 1.0]], dtype=d64).expand(201, 2).contiguous(), noise)
        assert torch.allclose(waves.show(x, noise)[:, 1:], 1 - slope.square())
        assert slope[0] == slope[-1] == 0 and (slope >= 0).all()
        near = torch.tensor([[LOW + 1e-3 * size]], dtype=d64)
        found = -waves.score(near, torch.tensor([[0.0, 1.0]], dtype=d64), torch.full_like(near, size))
        assert (
            abs(found.item() / 1e-3 - 1) < 1e-3 or size == 10.0
        )  # of the noise itself, while it is narrower than the box
    assert slope.max() < 0.1


def test_waves_are_the_eigenfunctions_of_the_kernels() -> None:
    # What Brownian motion makes of a wave is the wave, smaller: E cos k a_t = exp(−½ k² s²) cos k a_0, for noise s of the angle.
    for sde, orders in (
        (sdegen.CircularBrownianMotion(), [1, 1, 2, 2]),
        (sdegen.ReflectedBrownianMotion(LOW, HIGH), [1, 2]),
    ):
        assert sde.harmonics is not None
        x_0 = torch.full((20_000, 1), 0.4, dtype=d64)
        x = sde.perturb(x_0, 0.25, generator=g()).x
        s = math.pi / sde.harmonics.length * sde.sigma(torch.tensor(0.25, dtype=d64)).item()
        for k, now, then in zip(orders, *(sde.harmonics.show(v, torch.ones_like(v), 2).T for v in (x, x_0))):
            assert abs(now.mean() - math.exp(-0.5 * (k * s) ** 2) * then.mean()) < 5 * now.std() / 20_000**0.5


@pytest.mark.turns("circle")
@pytest.mark.parametrize("name", ["circle", "box"])
def test_densities_of_any_network_are_finite_and_their_mass_is_one(name: str) -> None:
    sde = sdegen.CircularBrownianMotion() if name == "circle" else sdegen.ReflectedBrownianMotion(LOW, HIGH)
    model = shaken(NETWORKS["perceptron"](2), sde)
    model.moments = sdegen.Moments(torch.zeros(1, dtype=d64), torch.ones(1, dtype=d64))
    low, width = (-math.pi, 2 * math.pi) if name == "circle" else (LOW, HIGH - LOW)
    # Towards a wall the density may go like any power of the distance: there are nodes at all its orders of magnitude.
    v = torch.linspace(-20, 20, 81, dtype=d64)
    share = v.sigmoid() if name == "box" else (torch.arange(60, dtype=d64) + 0.5) / 60
    weights = 0.5 * share * (1 - share) if name == "box" else torch.full_like(share, 1 / 60)
    found = sdegen.log_prob(model, (low + width * share)[:, None], tolerance=1e-4)
    assert found.isfinite().all() and found.max() - found.min() > 0.3  # no uniform law
    assert abs((found.exp() * weights).sum() * width - 1) < 1e-3
    ends = torch.tensor([[low], [low + width]], dtype=d64)
    assert sdegen.log_prob(model, ends if name == "box" else wrap(ends), tolerance=1e-3).isfinite().all()


@pytest.mark.slow
def test_the_flow_of_any_network_stays_in_the_box() -> None:
    sde = sdegen.ReflectedBrownianMotion(LOW, HIGH)
    model = shaken(NETWORKS["perceptron"](4), sde)
    for sampler in (samplers.Heun(3), samplers.ProbabilityFlow(10, method="rk4")):
        assert sde.domain.check(sdegen.sample(model, 100, sampler=sampler, seed=0, return_path=True)).all()
    drawn, found = sdegen.sample_with_log_prob(model, 20, seed=0, tolerance=1e-4)
    assert sde.domain.check(drawn).all() and found.value.isfinite().all()
    assert (sdegen.log_prob(model, drawn, tolerance=1e-4) - found.value).abs().max() < 2e-3


class Pushes(sdegen.ScoreModel):
    """A score that pushes one way everywhere, through every wall and round every circle."""

    def __init__(self, sde: sdegen.SDE) -> None:
        self.sde, self.moments = sde, sdegen.Moments(torch.zeros(1, dtype=d64), torch.ones(1, dtype=d64))

    def score(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
        return 0.1 * x - 1


@pytest.mark.parametrize("sde", [sdegen.CircularBrownianMotion(), sdegen.ReflectedBrownianMotion()], ids=repr)
def test_a_flow_that_leaves_the_domain_is_refused(sde: sdegen.SDE) -> None:
    with pytest.raises(ValueError, match=r"^the flow of Pushes leaves the domain of .* as DirectModel does"):
        sdegen.log_prob(Pushes(sde), torch.tensor([[0.5], [0.9]], dtype=d64))


def test_a_model_of_angles_is_trained_and_saved_with_its_orders(tmp_path: Path) -> None:
    data = wrap(0.3 * torch.randn(500, 2, generator=g()) + 3)
    model = sdegen.DirectModel(nets.MLP(8, width=16, depth=1), sdegen.CircularBrownianMotion(), orders=2)
    sdegen.fit(model, data, steps=3, batch_size=64, seed=0)
    sdegen.save(model, tmp_path / "angles")
    again = sdegen.load(tmp_path / "angles")
    assert again.orders == 2 and torch.equal(again.score(data, 0.5), model.score(data, 0.5))
    other = sdegen.DirectModel(nets.MLP(8, width=16, depth=1), sdegen.CircularBrownianMotion())
    with pytest.raises(ValueError, match=r"trained with orders = 2, and the model has 1"):
        other.load_state_dict(model.state_dict())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: sdegen.DirectModel(nets.MLP(2), sdegen.DoubleWell(), orders=2),
            "^orders = 2 on DoubleWell, whose states",
        ),
        (lambda: sdegen.DirectModel(nets.MLP(4), sdegen.CircularBrownianMotion(), orders=0), "^orders = 0"),
        (
            lambda: sdegen.DirectModel(nets.MLP(2), sdegen.CircularBrownianMotion()).score(torch.zeros(3, 2), 0.5),
            r"^x has shape \(3, 4\), the network takes dim = 2 coordinates; construct it with dim=4",
        ),
        (lambda: BoxHarmonics(1.0, 1.0), "^low = 1, high = 1; an interval has a length"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_a_point_beyond_a_wall_is_shown_as_its_mirror_image() -> None:
    x = torch.linspace(-4, 6, 101, dtype=d64)[:, None]
    noise = torch.full_like(x, 0.2)
    shown, image = (BoxHarmonics(LOW, HIGH).show(v, noise, 3) for v in (x, fold_into(x, LOW, HIGH)))
    assert torch.allclose(shown, image, atol=1e-12)
