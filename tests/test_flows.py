"""Flows: densities of total mass one, determinants and inverses against exact ones, estimates without bias."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdegen
from sdegen import nets
from sdegen.baselines import (
    Bijection,
    Composition,
    ContinuousFlow,
    Logit,
    Marginals,
    NormalizingFlow,
    RealNVP,
    ResidualFlow,
)
from sdegen.baselines.continuous import Trajectory
from sdegen.baselines.realnvp import Coupling, partitions
from sdegen.baselines.residual import Contraction, ResidualBlock, draw_length, probability_of_term
from sdegen.data import Images


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stirred(model: nn.Module, std: float = 0.3, seed: int = 0) -> Any:
    """The model in float64 with random weights in place of the zeros it starts from."""
    model = model.double()
    generator = seeded(seed)
    with torch.no_grad():
        for p in model.parameters():
            p += std * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    for part in model.modules():
        if isinstance(part, Contraction):
            part.settle(200)
    return model


def masses(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=seeded(3), dtype=torch.float64).softmax(-1)


FLOWS: dict[str, Callable[[], NormalizingFlow]] = {
    "RealNVP": lambda: RealNVP((2,), couplings=6, width=16, depth=1),
    "continuous": lambda: ContinuousFlow(nets.MLP(2, width=16, depth=1), (2,), tolerance=1e-7),
    "residual": lambda: ResidualFlow((2,), blocks=4, width=16),
}
IMAGES: dict[str, Callable[[], NormalizingFlow]] = {
    "RealNVP, one channel": lambda: RealNVP((1, 4, 4), couplings=8, width=8, depth=1),
    "RealNVP, three channels": lambda: RealNVP((3, 8, 8), couplings=14, width=8, depth=1, scales=3),
    "RealNVP of bytes": lambda: RealNVP((1, 4, 4), couplings=4, width=8, depth=1, first=Marginals(masses(1, 4, 4, 16))),
    "RealNVP of logits": lambda: RealNVP((1, 4, 4), couplings=4, width=8, depth=1, first=Logit(0.05)),
    "residual": lambda: ResidualFlow((2, 4, 4), blocks=2, width=8),
    "residual, squeezed": lambda: ResidualFlow((1, 4, 4), blocks=2, width=8, first=Logit(0.05), squeeze=2),
    "RealNVP of five numbers": lambda: RealNVP((5,), couplings=8, width=8, depth=1),
}


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.turns("continuous")
def test_the_mass_is_one(name: str) -> None:
    torch.manual_seed(0)
    flow = stirred(FLOWS[name](), 0.3 if name == "residual" else 0.1)
    at = torch.linspace(-10, 10, 161 if name == "continuous" else 401, dtype=torch.float64)
    grid = torch.cartesian_prod(at, at)
    with torch.no_grad():
        density = torch.cat([flow.log_prob(part).exp() for part in grid.split(40_000)])
    mass = density.sum() * (at[1] - at[0]) ** 2
    assert mass.item() == pytest.approx(1, abs=1e-3)
    # Not the density it started from, and another one elsewhere.
    normal = (-0.5 * grid.square().sum(1)).exp() / (2 * math.pi)
    assert (density - normal).abs().max() > 0.05


@pytest.mark.parametrize("name", [*FLOWS, *IMAGES])
@pytest.mark.turns("RealNVP, three channels")
def test_determinant_and_inverse(name: str) -> None:
    torch.manual_seed(0)
    flow = stirred((FLOWS | IMAGES)[name](), 0.03)
    x = torch.rand(3, *flow.shape, generator=seeded(1), dtype=torch.float64)
    z, log_det = flow.net(x)
    assert z.shape == (3, *flow.noise_shape)
    assert (flow.net.inverse(z) - x).abs().max() < 1e-5
    for i in range(3):
        jacobian: Any = torch.autograd.functional.jacobian(lambda v: flow.net(v[None])[0][0].flatten(), x[i])
        J = jacobian.reshape(flow.dim, flow.dim)
        assert log_det[i].item() == pytest.approx(torch.linalg.slogdet(J)[1].item(), abs=1e-6)
        # Every number has a say.
        assert (J != 0).any(0).all() and (J != 0).any(1).all()
    assert log_det.abs().min() > 1e-3


@pytest.mark.parametrize("name", FLOWS)
@torch.no_grad()
@pytest.mark.turns("continuous")
def test_samples_follow_the_density(name: str) -> None:
    """Means of test functions over samples against their integrals under the density."""
    torch.manual_seed(0)
    flow = stirred(FLOWS[name](), 0.3 if name == "residual" else 0.1)
    at = torch.linspace(-10, 10, 161, dtype=torch.float64)
    grid = torch.cartesian_prod(at, at)
    mass = flow.log_prob(grid).exp() * (at[1] - at[0]) ** 2
    x = flow.sample(20_000, seeded(2))
    for k in range(4):
        w = torch.randn(2, generator=seeded(k), dtype=torch.float64)
        found = sdegen.metrics.Estimate.of((x @ w).sin())
        assert abs(found.value - (mass * (grid @ w).sin()).sum().item()) < 4 * found.stderr + 1e-3


@pytest.mark.parametrize("channels", [4, 8, 12])
def test_partitions_are_checkerboards_rows_columns_and_channels(channels: int) -> None:
    masks = partitions(channels)
    for mask, other in zip(masks[::2], masks[1::2]):
        assert torch.equal(mask, ~other) and mask.sum() == channels // 2
    # The first is the checkerboard of the image itself.
    squares = masks[0].double().reshape(1, channels, 1, 1).expand(1, channels, 3, 3)
    board = torch.nn.functional.pixel_shuffle(squares, 2)[0, 0]
    i, j = torch.meshgrid(torch.arange(6), torch.arange(6), indexing="ij")
    assert torch.equal(board, ((i + j) % 2 == 0).double())
    # Changed rows of the image, changed columns.
    rows, columns = (
        torch.nn.functional.pixel_shuffle(masks[k].double().reshape(1, channels, 1, 1).expand(1, channels, 3, 3), 2)[
            0, 0
        ]
        for k in (2, 6)
    )
    assert torch.equal(rows, (i % 2 == 0).double()) and torch.equal(columns, (j % 2 == 0).double())


def test_a_coupling_leaves_what_it_reads() -> None:
    net = nn.Linear(1, 4).double()
    coupling = Coupling(torch.tensor([True, False, True]), net)
    x = torch.randn(4, 3, generator=seeded(0), dtype=torch.float64)
    z, log_det = coupling(x)
    assert torch.equal(z[:, 1], x[:, 1])
    s, t = net(x[:, 1:2]).chunk(2, 1)
    s = 2 * (s / 2).tanh()
    assert torch.allclose(z[:, [0, 2]], x[:, [0, 2]] * s.exp() + t) and torch.allclose(log_det, s.sum(1))


@pytest.mark.slow
def test_realnvp_fits_a_correlated_gaussian() -> None:
    law = sdegen.GaussianMixture(torch.ones(1), torch.tensor([[1.0, -2.0]]), torch.tensor([[[1.0, 0.8], [0.8, 2.0]]]))
    torch.manual_seed(0)
    flow = RealNVP((2,), couplings=4, width=16, depth=1)
    before = sdegen.metrics.kl(flow, law, 2000, seed=0).value
    sdegen.fit(flow, law, steps=400, lr=1e-2, batch_size=256, seed=0)
    assert sdegen.metrics.kl(flow, law, 2000, seed=0).value < 0.01 < 1 < before


# --- the first map ---------------------------------------------------------------------------------------------------


def test_places_alone_become_normal_exactly() -> None:
    m = masses(3, 8)
    flow = NormalizingFlow(Marginals(m, -1.0, 1.0), (3,))
    flow.register_parameter("like", nn.Parameter(torch.zeros((), dtype=torch.float64)))
    x = 2 * torch.rand(50, 3, generator=seeded(0), dtype=torch.float64) - 1
    cell = ((x + 1) * 4).long()
    truth = (m[torch.arange(3), cell] * 4).log().sum(1)  # mass over width
    assert torch.allclose(flow.log_prob(x), truth, atol=1e-10)


def test_masses_are_those_of_images() -> None:
    images = sdegen.data.digits()
    first = Marginals.of(images, smoothing=0.0 + 1e-9)
    counts = (images.x[:, 0, 3, 4].long()[:, None] == torch.arange(17)).sum(0)
    assert torch.allclose(first.masses[0, 3, 4], counts.double() / len(images), atol=1e-6)
    z = first(images.dequantised(0, 1).rows(generator=seeded(0)))[0]
    inner = z[:, 0, 2:6, 2:6]
    assert inner.mean((0,)).abs().max() < 0.1 and (inner.std(0) - 1).abs().max() < 0.1
    smooth = Marginals.of(images, smoothing=1e9).masses.reshape(64, 17)
    assert torch.allclose(smooth, smooth[:1].expand(64, 17), atol=1e-5)


@pytest.mark.parametrize("first", [Marginals(masses(2, 4)), Logit(0.05)], ids=["marginals", "logit"])
def test_outside_there_is_no_density(first: Bijection) -> None:
    x = torch.tensor([[0.5, 0.5], [0.5, 1.2], [-0.3, 0.5]])
    log_det = first(x)[1]
    assert log_det.isnan().tolist() == [False, True, True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tails_keep_their_precision(dtype: torch.dtype) -> None:
    first = Marginals(torch.tensor([[1e-18, 1.0, 1e-18]], dtype=torch.float64))
    x = torch.tensor([[0.1], [0.5], [0.9]], dtype=dtype)
    z, _ = first(x)
    assert z[0].item() == pytest.approx(-z[2].item(), rel=1e-5) and z[1].abs() < 1e-6
    assert torch.allclose(first.inverse(z), x, atol=1e-3 if dtype == torch.float32 else 1e-6)


# --- continuous ------------------------------------------------------------------------------------------------------


class Linear(nn.Module):
    """``v = A x``: the map is ``exp(A)``, its log-determinant ``tr A``."""

    def __init__(self) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.tensor([[0.3, -0.7], [0.5, 0.4]], dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x @ self.A.T


def test_a_linear_velocity_has_a_closed_form() -> None:
    velocity = Linear()
    flow = ContinuousFlow(velocity, (2,), steps=8, tolerance=1e-10)
    x = torch.randn(6, 2, generator=seeded(0), dtype=torch.float64)
    M = torch.matrix_exp(velocity.A.detach())
    covariance = torch.linalg.inv(M.T @ M)
    truth = torch.distributions.MultivariateNormal(torch.zeros(2, dtype=torch.float64), covariance).log_prob(x)
    assert torch.allclose(flow.log_prob(x), truth, atol=1e-8)
    errors = []
    for steps in (4, 8):
        flow.steps = steps
        errors.append((flow.loss(x) + truth / 2).abs().max().item())
    assert 12 < errors[0] / errors[1] < 20  # order four


def test_the_estimated_divergence_has_no_bias() -> None:
    torch.manual_seed(0)
    exact = stirred(ContinuousFlow(nets.MLP(2, width=16, depth=1), (2,), steps=4), 0.1)
    estimated = ContinuousFlow(exact.velocity, (2,), steps=4, probes=True)
    x = torch.randn(1, 2, generator=seeded(1), dtype=torch.float64).expand(4000, 2)
    with torch.no_grad():
        values = estimated.loss(x, generator=seeded(2))
        truth = exact.loss(x[:1]).item()
    assert values.std() > 1e-3
    assert abs(values.mean().item() - truth) < 4 * values.std().item() / 4000**0.5


# --- residual --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2,), (2, 4, 4)])
@pytest.mark.turns("shape1")
def test_the_log_determinant_is_estimated_without_bias(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    flow = stirred(ResidualFlow(shape, blocks=3, width=12), 0.5).eval()
    x = torch.randn(4, *shape, generator=seeded(1), dtype=torch.float64)
    truth = flow.log_prob(x).detach()
    value, stderr = flow.estimate(x, 1000, seeded(2))
    assert (stderr > 1e-4).all()
    assert ((value - truth).abs() < 4 * stderr).all()


def diagonal(block: ResidualBlock, bound: float | None = None) -> ResidualBlock:
    """A block of multiples of the identity, as large as the bound allows."""
    with torch.no_grad():
        for layer in block.layers:
            layer.layer.weight.copy_(5 * torch.eye(2))
            layer.layer.bias.zero_()
            layer.bound = layer.bound if bound is None else bound
            layer.settle(10)
    return block


def test_a_block_is_three_contractions_with_a_nonlinearity_between() -> None:
    torch.manual_seed(0)
    block = ResidualBlock((2,), 8, 0.9).double().eval()
    x = torch.randn(5, 2, generator=seeded(1), dtype=torch.float64)
    first, second, third = block.layers
    swish = lambda h: h * h.sigmoid() / 1.1
    torch.testing.assert_close(block.g(x), third(swish(second(swish(first(x))))))
    bent = block.g(2 * x) - 2 * block.g(x) + block.g(0 * x)
    assert bent.abs().max() > 1e-3  # which no linear map is


def test_fewer_terms_alone_would_be_biased() -> None:
    """What the roulette is for: the certain terms are not enough."""
    torch.manual_seed(0)
    block = diagonal(ResidualBlock((2,), 2, 0.95)).double().eval()
    x = 3 + torch.randn(1, 2, generator=seeded(1), dtype=torch.float64).expand(2000, 2)
    truth = block(x[:1])[1].item()
    probes = sdegen.laws.draws.rademacher_like(x, seeded(2))
    short = block.estimated(x, probes, 2)[1]
    assert abs(short.mean().item() - truth) > 6 * short.std().item() / 2000**0.5


def test_the_roulette_is_fair() -> None:
    """``Σ_n P(N = n) estimate(n)`` is the whole series: here every probe has the exact traces, so nothing else is drawn."""
    block = diagonal(ResidualBlock((2,), 2, 0.8)).double().eval()
    x = torch.full((1, 2), 3.0, dtype=torch.float64)
    values = torch.cat([block.estimated(x, torch.ones_like(x), n)[1] for n in range(1, 61)]).detach()
    chances = torch.tensor(
        [probability_of_term(n) - probability_of_term(n + 1) for n in range(1, 61)], dtype=torch.float64
    )
    assert (chances @ values).item() == pytest.approx(block(x)[1].item(), abs=1e-6)


def test_lengths_have_the_chances_that_are_divided_by() -> None:
    generator = seeded(0)
    drawn = torch.tensor([draw_length(generator) for _ in range(20_000)])
    for k in range(1, 8):
        p = probability_of_term(k)
        assert abs((drawn >= k).double().mean().item() - p) <= 4 * math.sqrt(p * (1 - p) / 20_000)


@pytest.mark.parametrize("image", [False, True])
def test_layers_are_contractions(image: bool) -> None:
    torch.manual_seed(0)
    shape = (2, 5, 5) if image else (7,)
    layer: Any = nn.Conv2d(2, 3, 3, padding="same") if image else nn.Linear(7, 9)
    nn.init.normal_(layer.weight, std=2.0)
    contraction = Contraction(layer.double(), shape, 0.8).double()
    contraction.settle(500)
    J = torch.func.jacrev(lambda v: contraction(v[None])[0].flatten())(torch.zeros(shape, dtype=torch.float64))
    norm = torch.linalg.matrix_norm(J.reshape(J.shape[0], -1), 2).item()
    assert norm == pytest.approx(0.8, rel=1e-4)
    with torch.no_grad():
        layer.weight *= 1e-3  # what is below the bound already stays
    J = torch.func.jacrev(lambda v: contraction(v[None])[0].flatten())(torch.zeros(shape, dtype=torch.float64))
    assert torch.linalg.matrix_norm(J.reshape(J.shape[0], -1), 2) < 0.1


def test_training_keeps_the_bound() -> None:
    torch.manual_seed(0)
    flow = ResidualFlow((2,), blocks=4, width=32, bound=0.9)
    sdegen.fit(flow, sdegen.data.gaussian_ring(), steps=60, lr=5e-3, batch_size=128, ema=0.0, seed=0)
    for part in flow.modules():
        if isinstance(part, Contraction):
            weight = part.layer.weight.detach()
            scaled = weight * (part.bound / part.norm()).clamp(max=1.0)
            assert torch.linalg.matrix_norm(scaled, 2) < 1.02 * part.bound
    x = torch.randn(5, 2, generator=seeded(0))
    assert torch.allclose(flow.net.inverse(flow.net(x)[0]), x, atol=1e-4)


# --- as models -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["RealNVP", "continuous"])
@pytest.mark.turns("continuous")
def test_parts_of_a_batch_train_as_the_whole(name: str) -> None:
    def weights(**more: Any) -> Tensor:
        torch.manual_seed(0)
        flow = FLOWS[name]().double()
        x = sdegen.data.gaussian_ring().sample(64, seeded(0))
        sdegen.fit(flow, x, steps=5, batch_size=16, seed=0, **more)
        return nn.utils.parameters_to_vector(flow.parameters())

    whole = weights()
    assert torch.allclose(weights(accumulate=4), whole, atol=1e-10)
    assert not torch.allclose(weights(lr=1e-3), whole)


@pytest.mark.parametrize("name", ["RealNVP of bytes", "RealNVP of logits", "residual"])
def test_saved_and_loaded(name: str, tmp_path: Any) -> None:
    torch.manual_seed(0)
    flow = stirred(IMAGES[name](), 0.1)
    sdegen.save(flow, tmp_path / "flow.safetensors")
    again = sdegen.load(tmp_path / "flow.safetensors")
    x = torch.rand(2, *flow.shape, generator=seeded(1), dtype=torch.float64)
    assert torch.equal(again.log_prob(x), flow.log_prob(x))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: RealNVP((1,)), "at least two coordinates"),
        (lambda: RealNVP((1, 6, 6)), "divisible by 2"),
        (lambda: RealNVP((3, 4)), "flatten"),
        (lambda: RealNVP((2,), couplings=1), "two at least"),
        (lambda: Logit(0.7), "between 0 and 1/2"),
        (lambda: Marginals(torch.tensor([[0.5, 0.6]])), "sum to one"),
        (lambda: ResidualFlow((2,), bound=1.0), "between 0 and 1"),
        (lambda: ResidualFlow((4,), squeeze=2), "divide both sides"),
        (lambda: ResidualFlow((1, 4, 6), squeeze=4), "divide both sides"),
        (lambda: ContinuousFlow(nets.MLP(2), (2,), steps=0), "positive"),
        (lambda: RealNVP((2,)).log_prob(torch.zeros(3, 4)), "shape"),
        (lambda: ResidualFlow((2,)).estimate(torch.zeros(3, 2), 1), "two"),
    ],
)
def test_bad_input_is_told(make: Callable[[], Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


def test_what_has_no_inverse_says_so() -> None:
    with pytest.raises(NotImplementedError, match="write inverse"):
        Composition([Bijection()]).inverse(torch.zeros(1, 2))
    block = diagonal(ResidualBlock((2,), 2, 0.95), bound=3.0)
    with pytest.raises(RuntimeError, match="still moves"):
        block.inverse(torch.ones(1, 2))


@pytest.mark.slow
def test_the_adaptive_solver_is_what_densities_come_from() -> None:
    torch.manual_seed(0)
    flow = stirred(ContinuousFlow(nets.MLP(2, width=16, depth=1), (2,), steps=1, tolerance=1e-9), 0.2)
    assert isinstance(flow.net, Trajectory)
    x = torch.randn(5, 2, generator=seeded(0), dtype=torch.float64)
    fine = flow._log_density(*flow.net(x, None, 200))
    assert torch.allclose(flow.log_prob(x), fine, atol=1e-6)
    assert (flow.loss(x) * 2 + fine).abs().max() > 1e-4


def test_a_level_that_no_image_has_is_not_impossible() -> None:
    images = Images(torch.tensor([[0, 1], [1, 1], [0, 2]], dtype=torch.uint8).reshape(3, 1, 1, 2), levels=4)
    masses = Marginals.of(images).masses
    assert (masses > 0).all()
    torch.testing.assert_close(masses.sum(-1), torch.ones_like(masses[..., 0]))


def test_three_layers_of_a_block_share_its_bound() -> None:
    """Where weights are large each layer is at its own bound, and their product is the block's."""
    torch.manual_seed(0)
    block = ResidualBlock((3,), 8, 0.7).double()
    product = 1.0
    for layer in block.layers:
        assert isinstance(layer, Contraction)
        layer.layer.weight.data.mul_(100)
        layer.converge()
        a = torch.eye(layer.layer.weight.shape[1]).double()
        product *= torch.linalg.matrix_norm(layer(a) - layer(torch.zeros_like(a)), ord=2).item()
    assert product == pytest.approx(0.7, rel=1e-6)
