"""Adversarial models: what critics measure against exact divergences and distances, and who learns from which loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn

import sdegen
from sdegen import nets
from sdegen.baselines import (
    GAN,
    KL,
    WGAN,
    WGANGP,
    Adversarial,
    FDivergence,
    Game,
    Hellinger,
    JensenShannon,
    Pearson,
    ReverseKL,
    Stability,
    TotalVariation,
)
from sdegen.baselines.gans import gradient_norm
from sdegen.laws import Units

M = 1.0  # p = N(M, 1), q = N(0, 1)
AT = torch.linspace(-12, 13, 20_001, dtype=torch.float64)
P, Q = (torch.exp(torch.distributions.Normal(m, 1.0).log_prob(AT)) * (AT[1] - AT[0]) for m in (M, 0.0))
LOG_RATIO = M * AT - M**2 / 2

TRUE: dict[type[FDivergence], float] = {
    KL: M**2 / 2,
    ReverseKL: M**2 / 2,
    Pearson: math.expm1(M**2),
    Hellinger: 2 - 2 * math.exp(-(M**2) / 8),
    TotalVariation: 2 * norm.cdf(M / 2) - 1,
    # No closed form: the halfway law by quadrature.
    JensenShannon: sum((a * (2 * a / (P + Q)).log()).sum().item() for a in (P, Q)),
}
TRUE[Game] = TRUE[JensenShannon] - math.log(4)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bound(divergence: FDivergence, v: Tensor) -> float:
    """``E_p a(v) − E_q c(v)`` by quadrature, of a critic's answers on the grid."""
    return ((P * divergence.activation(v)).sum() - (Q * divergence.conjugate(v)).sum()).item()


@pytest.mark.parametrize("kind", TRUE)
def test_the_best_critic_attains_the_divergence_and_no_other_does(kind: type[FDivergence]) -> None:
    divergence = kind()
    by_definition = (Q * divergence.f(LOG_RATIO.exp())).sum().item()
    assert by_definition == pytest.approx(TRUE[kind], rel=1e-5)
    best = divergence.optimum(LOG_RATIO)
    assert bound(divergence, best) == pytest.approx(TRUE[kind], rel=1e-5)
    for other in (0.9 * LOG_RATIO, LOG_RATIO + 0.1, 0.3 * AT, torch.zeros_like(AT)):
        assert bound(divergence, other if kind is TotalVariation else divergence.optimum(other)) < TRUE[kind] - 1e-4
    # c(v) is the conjugate at a(v), f*(t) = sup_u t u − f(u), written out.
    v = torch.tensor([-1.2, -0.1, 0.4], dtype=torch.float64)
    u = torch.linspace(1e-6, 60, 600_001, dtype=torch.float64)
    for k, t in enumerate(divergence.activation(v)):
        assert divergence.conjugate(v)[k].item() == pytest.approx((t * u - divergence.f(u)).max().item(), abs=1e-3)


class Alike(nn.Module):
    """A generator that gives what it takes and has nothing to learn."""

    def forward(self, z: Tensor) -> Tensor:
        return z


def shifted(dim: int, by: float) -> sdegen.GaussianMixture:
    mean = torch.zeros(1, dim)
    mean[0, 0] = by
    return sdegen.GaussianMixture(torch.ones(1), mean, torch.ones(1))


@pytest.mark.parametrize("kind", TRUE)
@pytest.mark.turns("TotalVariation", "Hellinger", "JensenShannon", "ReverseKL", "Pearson", "Game")
def test_a_trained_critic_recovers_the_divergence(kind: type[FDivergence]) -> None:
    torch.manual_seed(0)
    model = GAN(Alike(), nets.Perceptron(1, 1, 32, 1), 1, divergence=kind())
    model.units = Units()  # of the generator, which learns none
    sdegen.fit(model, shifted(1, M), steps=600, batch_size=2048, lr=5e-3, ema=0.1, seed=0)
    with torch.no_grad():
        v = model.critic(AT[:, None].float()).flatten().double()
    inside = (AT > -5) & (AT < 6)  # beyond, where no draw has been, the exponential ones may say anything
    v = torch.where(inside, v, model.divergence.optimum(LOG_RATIO).nan_to_num(posinf=9, neginf=-9))
    assert bound(model.divergence, v) == pytest.approx(TRUE[kind], rel=0.02)


@pytest.mark.parametrize("weight", [10.0, 100.0])
@pytest.mark.turns("100.0", "10.0")
def test_the_penalised_critic_recovers_the_distance(weight: float) -> None:
    """The distance of Wasserstein between a law and its copy shifted by m is |m|.

    The critic with slope s has ``s m − weight (s − 1)²``, most for ``s = 1 + m / (2 weight)``: by that factor it reads too much.
    """
    torch.manual_seed(0)
    model = WGANGP(Alike(), nets.Perceptron(2, 1, 64, 1), 2, weight=weight)
    model.units = Units()
    law = shifted(2, 3.0)
    sdegen.fit(model, law, steps=600, batch_size=512, lr=3e-3, betas=(0.5, 0.9), clip=100.0, seed=0)
    with torch.no_grad():
        real = model.critic(law.sample(40_000, seeded(1)).float()).mean()
        fake = model.critic(torch.randn(40_000, 2, generator=seeded(2))).mean()
    assert (real - fake).item() == pytest.approx(3.0 * (1 + 3.0 / (2 * weight)), rel=0.03)
    if weight == 100:
        assert (real - fake).item() == pytest.approx(3.0, rel=0.05)


# --- who learns from what --------------------------------------------------------------------------------------------


def pair(kind: Callable[..., Adversarial], **more: Any) -> Adversarial:
    torch.manual_seed(0)
    return kind(nets.Perceptron(3, 2, 8, 1), nets.Perceptron(2, 1, 8, 1), 3, **more).double()


def stirred(model: Adversarial) -> Adversarial:
    with torch.no_grad():
        for p in model.parameters():
            p += 0.2 * torch.randn(p.shape, generator=seeded(7), dtype=p.dtype)
    return model


X = sdegen.data.gaussian_ring().sample(40, seeded(0))


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        (GAN, {}),
        (GAN, {"saturating": True}),
        (GAN, {"divergence": Pearson()}),
        (GAN, {"r1": 3.0}),
        (WGAN, {"clip": 5.0}),
        (WGANGP, {}),
    ],
)
def test_each_player_has_the_gradient_of_its_own_loss(kind: type[Adversarial], more: dict[str, Any]) -> None:
    model = stirred(pair(kind, **more))
    model.loss(X, generator=seeded(1)).mean().backward()
    z = torch.randn(40, 3, generator=seeded(1), dtype=torch.float64)
    fake = model.generator(z)
    told = model.critic(fake).flatten()
    of_generator = model.of_generator(told).mean()
    want = torch.autograd.grad(of_generator, list(model.generator.parameters()), retain_graph=True)
    for p, g in zip(model.generator.parameters(), want):
        assert p.grad is not None and torch.allclose(p.grad, g, atol=1e-12)
    of_critic = model.of_critic(model.critic(X).flatten(), model.critic(fake.detach()).flatten()).mean()
    if isinstance(model, WGANGP):
        generator = seeded(1)
        torch.randn(40, 3, generator=generator, dtype=torch.float64)
        u = torch.rand(40, 1, generator=generator, dtype=torch.float64)
        y = (u * X + (1 - u) * fake).detach().requires_grad_()
        (g_y,) = torch.autograd.grad(model.critic(y).sum(), y, create_graph=True)
        of_critic = of_critic + 10.0 * (g_y.norm(dim=1) - 1).square().mean()
    if isinstance(model, GAN) and model.r1:
        x = X.clone().requires_grad_()
        (g_x,) = torch.autograd.grad(model.critic(x).sum(), x, create_graph=True)
        of_critic = of_critic + 1.5 * g_x.square().sum(1).mean()
    want = torch.autograd.grad(of_critic, list(model.critic.parameters()))
    for p, g in zip(model.critic.parameters(), want):
        assert p.grad is not None and torch.allclose(p.grad, g, atol=1e-12)
    assert min(g.abs().max().item() for g in want[:-1]) > 0


def test_saturating_and_not_are_the_two_losses_of_the_paper() -> None:
    v = torch.tensor([-6.0, 0.0, 3.0], dtype=torch.float64, requires_grad=True)
    D = v.sigmoid()
    plain, saturating = pair(GAN), pair(GAN, saturating=True)
    assert torch.allclose(plain.of_generator(v), -D.log()) and torch.allclose(saturating.of_generator(v), (1 - D).log())
    assert torch.allclose(plain.of_critic(v, v), -D.log() - (1 - D).log())
    slopes = [torch.autograd.grad(m.of_generator(v).sum(), v)[0][0].abs().item() for m in (plain, saturating)]
    assert slopes[0] > 0.99 and slopes[1] < 0.01  # where the critic is sure, one gradient has vanished


def test_clipping_comes_before_every_use() -> None:
    model = stirred(pair(WGAN, clip=0.05))
    assert isinstance(model, WGAN)
    model.loss(X)
    assert max(p.abs().max().item() for p in model.critic.parameters()) == 0.05
    assert max(p.abs().max().item() for p in model.generator.parameters()) > 0.05


def test_slopes_are_norms_of_gradients() -> None:
    w = torch.tensor([[3.0, -4.0]])
    critic = nn.Linear(2, 1)
    with torch.no_grad():
        critic.weight.copy_(w)
    assert torch.allclose(gradient_norm(critic, torch.randn(5, 2)), torch.full((5,), 5.0))


def test_parts_of_a_batch_train_as_the_whole() -> None:
    def weights(**more: Any) -> Tensor:
        model = pair(WGANGP)
        sdegen.fit(model, X, steps=4, batch_size=16, seed=0, **more)
        return nn.utils.parameters_to_vector(model.parameters())

    assert torch.allclose(weights(accumulate=4), weights(), atol=1e-10)


def test_the_critic_may_learn_faster() -> None:
    def moved(**more: Any) -> tuple[Tensor, Tensor]:
        model = pair(GAN)
        before = [nn.utils.parameters_to_vector(p.parameters()) for p in (model.critic, model.generator)]
        sdegen.fit(model, X, steps=1, lr=1e-3, warmup=0, ema=0.0, seed=0, **more)
        after = [nn.utils.parameters_to_vector(p.parameters()) for p in (model.critic, model.generator)]
        return after[0] - before[0], after[1] - before[1]

    plain, faster = moved(), moved(lr_factors={"net.critic.": 3.0})
    assert torch.allclose(faster[0], 3 * plain[0], atol=1e-9) and torch.equal(faster[1], plain[1])
    for factors, says in (({"net.crit": 2.0, "net.": 3.0}, "begins with"), ({"judge": 2.0}, "no parameter")):
        with pytest.raises(ValueError, match=says):
            moved(lr_factors=factors)
    with pytest.raises(ValueError, match="positive"):
        moved(lr_factors={"net.critic.": 0.0})


# --- batch normalisation ---------------------------------------------------------------------------------------------


def image_gan() -> GAN:
    torch.manual_seed(0)
    return GAN(nets.Up(5, (1, 8, 8), 8, batch_norm=True, bounded=True), nets.Down((1, 8, 8), 1, 8, batch_norm=True), 5)


def test_samples_are_normalised_for_the_weights_that_are_there() -> None:
    model = image_gan()
    images = sdegen.data.digits().without_labels().scaled(0, 1)
    sdegen.fit(model, images, steps=20, batch_size=32, lr=2e-3, seed=0)
    x = model.sample(6, seeded(3))
    assert torch.equal(x, model.sample(6, seeded(3)))
    model.train()
    assert torch.equal(model.sample(6, seeded(3)), x) and model.generator.training
    model.eval()
    assert x.min() >= 0 and x.max() <= 1
    # By hand: the layers in training mode see the batch of latents by which the moments are taken, and ours at its end.
    many = torch.randn(1024, 5, generator=seeded(0))
    ours = torch.randn(6, 5, generator=seeded(3))
    with torch.no_grad():
        model.generator.train()
        together = model.generator(torch.cat([many, ours]))[-6:]
        model.generator.eval()
    assert (together - x).abs().max() < 0.02  # six of 1,030 have a say too
    stale = image_gan().eval()
    stale.generator.load_state_dict(model.generator.state_dict())
    for part in stale.generator.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.reset_running_stats()
    assert (stale.generator(ours) - x).abs().max() > 0.02
    assert torch.equal(stale.sample(6, seeded(3)), x)


@pytest.mark.parametrize(("kind", "more"), [(WGANGP, {}), (GAN, {"r1": 1.0})])
def test_a_penalty_and_batch_normalisation_do_not_go_together(kind: Any, more: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="normalises over the batch"):
        kind(nets.Up(5, (1, 8, 8), 8), nets.Down((1, 8, 8), 1, 8, batch_norm=True), 5, **more)


class Place(nn.Module):
    """A generator that makes one point, wherever the latent is."""

    def __init__(self, at: float) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.tensor([at], dtype=torch.float64))

    def forward(self, z: Tensor) -> Tensor:
        return self.at.expand(len(z), 1)


@pytest.mark.parametrize("r1", [0.0, 0.5, 0.8])
@pytest.mark.turns("0.5")
def test_players_meet_at_the_rate_of_the_penalty_and_never_without(r1: float) -> None:
    """A point against a line: near the equilibrium ``(v, θ)' = [[−r1, −1/2], [1/2, 0]] (v, θ)``.

    Its eigenvalues are ``(−r1 ± i √(1 − r1²)) / 2``: players go round each other, nearer by ``exp(−r1 t / 2)``. Along the
    orbit ``v² + 2 r1 v θ + θ²`` has no oscillation left, so that the rate is seen at any time.
    """
    model = GAN(Place(0.02), nn.Linear(1, 1, bias=False).double(), 1, r1=r1)
    with torch.no_grad():
        model.critic.weight.zero_()
    step, steps, x = 0.002, 3000, torch.zeros(1, 1, dtype=torch.float64)

    def away() -> float:
        v, at = model.critic.weight.item(), model.generator.at.item()
        return v**2 + 2 * r1 * v * at + at**2

    first = away()
    for _ in range(steps):
        model.zero_grad()
        model.loss(x, generator=seeded(0)).mean().backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= step * p.grad
    assert math.log(away() / first) == pytest.approx(-r1 * step * steps, abs=0.02)


def test_a_negative_penalty_is_refused() -> None:
    with pytest.raises(ValueError, match="not negative"):
        pair(GAN, r1=-1.0)
    with pytest.raises(ValueError, match="that of a penalty is positive"):
        pair(WGANGP, weight=0.0)


# --- as models -------------------------------------------------------------------------------------------------------


def test_what_is_kept_of_a_training() -> None:
    model = pair(WGANGP)
    kept = Stability(model, X, every=5)
    sdegen.fit(model, X, steps=10, batch_size=16, seed=0, clip=1e-3, ema=0.0, callbacks=[kept])
    assert [record["step"] for record in kept.records] == [5, 10]
    # The same run with a callback of our own in place of clipping: the gradients of both players, as they are.
    model, own = pair(WGANGP), []

    def look(step: Any) -> None:
        players = (step.model.net.critic, step.model.net.generator)
        own.append([torch.cat([p.grad.flatten() for p in player.parameters()]).norm().item() for player in players])

    sdegen.fit(model, X, steps=1, batch_size=16, seed=0, clip=1e9, ema=0.0, callbacks=[look])
    again = pair(WGANGP)
    first = Stability(again, X, every=1)
    sdegen.fit(again, X, steps=1, batch_size=16, seed=0, clip=1e-3, ema=0.0, callbacks=[first])
    assert [first.records[0][name] for name in ("critic", "generator")] == pytest.approx(own[0], rel=1e-5)
    last, model = first.records[-1], again
    real, fake = (model.standardised(x) for x in (X, model.sample(len(X), seeded(0))))
    assert last["gap"] == pytest.approx((model.critic(real).mean() - model.critic(fake).mean()).item())
    v, w = (model.critic(x).mean().item() for x in (real, fake))
    assert [last["L_D"], last["L_G"]] == pytest.approx([w - v, -w])  # of a Wasserstein GAN, without the penalty
    assert last["slope"] == pytest.approx(gradient_norm(model.critic, 0.5 * (real + fake)).max().item())
    with pytest.raises(ValueError, match="at least 1"):
        Stability(model, X, 0)
    alone = GAN(Alike(), nets.Perceptron(2, 1, 8, 1), 2).double()
    kept = Stability(alone, X, every=1)
    sdegen.fit(alone, X, steps=1, batch_size=16, seed=0, callbacks=[kept])
    assert kept.records[0]["generator"] == 0 < kept.records[0]["critic"]


@pytest.mark.parametrize("saturating", [False, True])
def test_losses_of_both_players_add_up_to_that_which_is_trained(saturating: bool) -> None:
    model = pair(GAN, saturating=saturating)
    kept = Stability(model, X, every=1)
    sdegen.fit(model, X, steps=1, batch_size=16, seed=0, ema=0.0, callbacks=[kept])
    found = kept.records[0]["L_D"] + kept.records[0]["L_G"]
    assert found == pytest.approx(model.loss(X, generator=seeded(0)).mean().item())


@pytest.mark.parametrize(
    ("generator", "critic"),
    [(nets.Perceptron(3, 1), nets.Perceptron(2, 1)), (nets.Perceptron(3, 2), nets.Perceptron(2, 3))],
)
def test_players_of_other_shapes_are_told(generator: nn.Module, critic: nn.Module) -> None:
    with pytest.raises(
        (ValueError, RuntimeError), match=r"one number a datum|dim = 2 coordinates|the shape of the data"
    ):
        GAN(generator, critic, 3).loss(X.float())


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.turns("1", "0")
def test_a_penalised_gan_finds_both_modes(seed: int) -> None:
    law = sdegen.GaussianMixture(torch.tensor([0.5, 0.5]), torch.tensor([[-2.0], [2.0]]), torch.tensor([0.25, 0.25]))
    torch.manual_seed(seed)
    model = WGANGP(nets.Perceptron(1, 1, 32, 1), nets.Perceptron(1, 1, 32, 1), 1, weight=0.1)
    sdegen.fit(
        model, law, steps=600, lr=2e-3, betas=(0.0, 0.9), clip=100.0, batch_size=128, seed=seed,
        lr_factors={"net.critic.": 4.0},
    )  # fmt: skip
    assert sdegen.metrics.mode_shares(model.sample(4000, seeded(0)), law).min() > 0.5


@pytest.mark.parametrize(
    "model",
    [
        image_gan(),
        pair(GAN, divergence=Hellinger(), saturating=True),
        pair(GAN, r1=2.0),
        pair(WGAN, clip=0.2),
        pair(WGANGP, weight=3.0),
    ],
    ids=["images", "f-GAN", "R1", "WGAN", "WGAN-GP"],
)
def test_saved_and_loaded(model: Adversarial, tmp_path: Any) -> None:
    model.eval()
    sdegen.save(model, tmp_path / "gan.safetensors")
    again = sdegen.load(tmp_path / "gan.safetensors")
    assert torch.equal(again.sample(5, seeded(0)), model.sample(5, seeded(0)))
    x = torch.rand(4, *model.sample(1).shape[1:], generator=seeded(1)).to(next(model.parameters()))
    assert torch.equal(again.loss(x, generator=seeded(2)), model.loss(x, generator=seeded(2)))


def test_conditions_that_no_loss_takes_are_refused() -> None:
    with pytest.raises(TypeError, match="without_labels"):
        sdegen.fit(image_gan(), sdegen.data.digits().scaled(0, 1), steps=1)


def test_clip_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        pair(WGAN, clip=0.0)


@pytest.mark.parametrize("length", [0.0, 1.0, 3.0])
def test_a_penalty_is_of_the_distance_of_the_slope_from_one(length: float) -> None:
    critic = nn.Linear(2, 1).double()
    critic.weight.data = torch.tensor([[0.6, 0.8]], dtype=torch.float64) * length
    model = WGANGP(nn.Linear(2, 2).double(), critic, 2, weight=5.0)
    x, made = torch.randn(4, 2).double(), torch.randn(4, 2).double()
    torch.testing.assert_close(model.penalty(x, made, None), torch.full((4,), 5 * (length - 1) ** 2).double())
