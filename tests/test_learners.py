"""What `fit` asks of a model: every family of the library gives it, and what does not is refused in a sentence."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sdegen
from sdegen import baselines, fit, guidance, nets

RING = sdegen.data.gaussian_ring()
flat = lambda model: torch.cat([p.detach().flatten() for p in model.parameters()])


class Stop(Exception):
    """What interrupts a run."""


def pair(inner, outer):
    return nets.Perceptron(2, inner, 8, 1), nets.Perceptron(outer, 2, 8, 1)


def probe():
    return baselines.LatentClassifier(baselines.Autoencoder(*pair(3, 3)), 3, 2)


# A model, and whether it learns from labels.
FAMILIES = {
    "score model": (lambda: sdegen.Model(nets.MLP(2, width=8, depth=1), sdegen.VP()), False),
    "direct score": (lambda: sdegen.DirectModel(nets.MLP(2, width=8, depth=1), sdegen.VP()), False),
    "classifier of noised data": (
        lambda: guidance.NoisyClassifier(nets.MLP(2, out=2, width=8, depth=1), sdegen.VP()), True
    ),
    "autoencoder": (lambda: baselines.Autoencoder(*pair(3, 3)), False),
    "VAE": (lambda: baselines.VAE(*pair(4, 2)[:1], nets.Perceptron(2, 4, 8, 1), 2), False),
    "categorical VAE": (lambda: baselines.CategoricalVAE(nets.Perceptron(2, 3, 8, 1), nets.Perceptron(3, 4, 8, 1), 3), False),
    "hierarchical VAE": (lambda: baselines.HierarchicalVAE((2,), (2, 1), width=8), False),
    "classifier of codes": (probe, True),
    "RealNVP": (lambda: baselines.RealNVP((2,), couplings=2, width=8, depth=1), False),
    "residual flow": (lambda: baselines.ResidualFlow((2,), blocks=2, width=8), False),
    "continuous flow": (lambda: baselines.ContinuousFlow(nets.MLP(2, width=8, depth=1), (2,), steps=4), False),
    "GAN": (lambda: baselines.GAN(nets.Perceptron(2, 2, 8, 1), nets.Perceptron(2, 1, 8, 1), 2), False),
    "WGAN": (lambda: baselines.WGAN(nets.Perceptron(2, 2, 8, 1), nets.Perceptron(2, 1, 8, 1), 2), False),
    "WGAN-GP": (lambda: baselines.WGANGP(nets.Perceptron(2, 2, 8, 1), nets.Perceptron(2, 1, 8, 1), 2), False),
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_trains_and_goes_on_after_an_interruption_to_the_same_weights(name, tmp_path):
    built, labelled = FAMILIES[name]
    x = RING.sample(40, torch.Generator().manual_seed(1))
    data = (x.float(), torch.arange(40) % 2) if labelled else x.float()

    def trained(folder, callbacks=()):
        torch.manual_seed(0)
        model = built()
        before = flat(model)
        run = fit(model, data, steps=6, batch_size=8, seed=3, warmup=1, checkpoint=folder, every=2, callbacks=callbacks)
        assert run.steps == 6 and not torch.equal(flat(model), before)
        return flat(model)

    def stop(step):
        if step.step == 3:
            raise Stop

    whole = trained(None)
    with pytest.raises(Stop):
        trained(tmp_path, [stop])
    assert torch.equal(trained(tmp_path), whole)


def test_a_model_may_keep_what_it_likes_of_the_moments():
    model = guidance.NoisyClassifier(nets.MLP(2, out=2, width=8, depth=1), sdegen.VP())
    x = 3 * RING.sample(40, torch.Generator().manual_seed(1)).float()
    fit(model, (x, torch.arange(40) % 2), steps=1, batch_size=8, seed=0)
    assert float(model.std) == pytest.approx(x.double().var(0, correction=0).mean().sqrt().item())


class Line(nn.Module):
    """The least that learns by itself."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.zeros(2))

    def loss(self, x, *, generator=None):
        return (x - self.a).square().sum(1)


def test_a_module_with_a_loss_is_enough():
    model = Line()
    fit(model, RING, steps=30, batch_size=64, lr=0.1, warmup=1, seed=0)
    assert torch.equal(model.moments.mean, RING.moments().mean)


class Method(Line):
    def moments(self):
        return None


class Fixed(Line):
    @property
    def moments(self):
        return None


def frozen():
    model = Line()
    model.a.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("model", "error", "says"),
    [
        (lambda: RING, TypeError, r"^model is GaussianMixture, which has nothing to train; give an nn\.Module"),
        (Method, TypeError, r"^Method\.moments cannot be written, and fit sets model\.moments"),
        (Fixed, TypeError, r"^Fixed\.moments cannot be written, and fit sets model\.moments"),
        (frozen, ValueError, r"^the model has no parameters to train"),
        (lambda: nn.Linear(2, 2), TypeError, r"^Linear has no loss; give one, loss="),
    ],
    ids=["law", "method", "property", "frozen", "no loss"],
)
def test_what_cannot_learn_is_refused_before_anything_is_written(model, error, says, tmp_path):
    with pytest.raises(error, match=says):
        fit(model(), RING, steps=1, batch_size=4, checkpoint=tmp_path / "run")
    assert not list(tmp_path.rglob("step*"))


class Spread(nn.Module):
    """A model of one's own, which has no units: it learns the mean square of its data."""

    def __init__(self) -> None:
        super().__init__()
        self.size, self.moments = nn.Parameter(torch.ones(())), None

    def loss(self, x: torch.Tensor, *, generator: torch.Generator | None = None) -> torch.Tensor:
        return (x.square().mean(1) - self.size).square()


@pytest.mark.parametrize("ratio", [1.0, 1e4, 1e7, 1e9, -1e12])
def test_data_that_a_coarser_model_cannot_tell_apart_are_refused(ratio: float) -> None:
    x = ratio + torch.randn(32, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def train(model: nn.Module, data: torch.Tensor) -> None:
        sdegen.fit(model, data, steps=1, batch_size=8, clip=None, seed=0, progress=False)

    if abs(ratio) < 1e6:
        train(Spread(), x)
    else:
        with pytest.raises(
            ValueError, match=r"^data is torch\.float64, and so far from zero .*; subtract the mean first, or make"
        ):
            train(Spread(), x)
        train(Spread(), x - ratio)
    train(Spread().double(), x)
