"""The validation loss is the one that the objective has on averaged weights, with the same random numbers every time."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils.data import DataLoader

import sdegen
from sdegen import fit
from sdegen.metrics.estimate import Estimate

RING = sdegen.data.gaussian_ring()
flat = lambda model: torch.cat([p.detach().flatten() for p in model.parameters()]).cpu()


@pytest.fixture
def x(device, dtype):
    return RING.sample(50, torch.Generator().manual_seed(1)).to(device, dtype)


@pytest.fixture
def tiny(device, dtype):
    def built(**net):
        torch.manual_seed(0)
        return sdegen.Model(sdegen.nets.MLP(2, width=8, depth=1, **net), sdegen.VP()).to(device, dtype)

    return built


def test_the_loss_of_averaged_weights_is_measured_when_asked_and_at_the_end(tiny, x):
    objective, expected = sdegen.losses.Denoising(), {}

    def by_hand(step):
        with step.averaged() as model, torch.no_grad():
            generator = torch.Generator().manual_seed(0)
            values = [objective(model, part, generator=generator) for part in x.split(20)]
            expected[step.step] = Estimate.of(torch.cat(values))

    run = fit(
        tiny(),
        RING,
        steps=7,
        batch_size=20,
        seed=0,
        warmup=1,
        ema=0.2,
        validation=x,
        validate_every=3,
        callbacks=[by_hand],
    )
    assert list(run.validation) == [3, 6, 7]
    for step, estimate in run.validation.items():
        assert estimate == pytest.approx(expected[step], rel=1e-6)
        assert estimate.stderr > 0


def test_a_validation_changes_nothing(tiny, x):
    """Dropout included, whose masks are torch's own numbers, and a loader that draws some."""

    class Dropping(torch.nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net, self.drop = net, torch.nn.Dropout(0.3)

        def forward(self, x, level):
            return self.drop(self.net(x, level))

    found = []
    for validation in (None, x, RING, DataLoader(x.cpu(), batch_size=8, shuffle=True)):
        model = tiny()
        model.net = Dropping(model.net)
        torch.manual_seed(4)
        run = fit(model, x, steps=6, batch_size=16, seed=0, warmup=1, validation=validation, validate_every=2)
        found.append((flat(model), run.loss))
        assert len(run.validation) == (0 if validation is None else 3)
    for weights, loss in found[1:]:
        assert torch.equal(weights, found[0][0]) and loss == found[0][1]


def test_random_numbers_are_common(tiny, x):
    """Weights that do not move have the same loss every time, in runs of any seed."""
    runs = [
        fit(tiny(), RING, steps=6, lr=1e-30, batch_size=16, seed=seed, validation=x, validate_every=2)
        for seed in (0, 1)
    ]
    values = [estimate for run in runs for estimate in run.validation.values()]
    assert len(values) == 6 and all(value == pytest.approx(values[0], rel=1e-9) for value in values)


def test_a_record_that_goes_on_has_the_measurements_before(tiny, x, tmp_path):
    settings = {"batch_size": 16, "seed": 0, "validation": x, "validate_every": 2, "warmup": 1}

    class Stop(Exception):
        pass

    def stop(step):
        if step.step == 5:
            raise Stop

    whole = fit(tiny(), RING, steps=8, **settings)
    with pytest.raises(Stop):
        fit(tiny(), RING, steps=8, checkpoint=tmp_path, every=4, callbacks=[stop], **settings)
    again = fit(tiny(), RING, steps=8, checkpoint=tmp_path, every=4, **settings)
    assert again.validation == whole.validation and list(whole.validation) == [2, 4, 6, 8]


def test_a_finished_run_has_the_measurement_after_its_last_step(tiny, x, tmp_path):
    """Although a checkpoint was due at that step, before it was measured."""
    asked = {"steps": 6, "batch_size": 16, "seed": 0, "validation": x, "validate_every": 4}
    first, again = (fit(tiny(), RING, checkpoint=tmp_path, every=3, **asked) for _ in range(2))
    assert again.validation == first.validation and list(first.validation) == [4, 6]


def test_labels_of_the_validation_reach_the_network_and_none_is_lost(tiny, x):
    model, seen = tiny(classes=3), []
    label = torch.arange(len(x), device=x.device) % 3
    model.net.register_forward_pre_hook(
        lambda net, args, kwargs: None if net.training else seen.append(kwargs["label"]), with_kwargs=True
    )
    fit(model, (x, label), steps=2, batch_size=25, seed=0, p_uncond=1.0, validation=(x, label), validate_every=2)
    assert torch.equal(torch.cat(seen), label)


def test_data_without_a_condition_that_all_are_trained_with_are_refused(tiny, x):
    label = torch.arange(len(x), device=x.device) % 3
    how = {"steps": 1, "batch_size": 25, "seed": 0}
    with pytest.raises(
        ValueError, match=r"^the validation data have no condition 'label', and all rows that Model learns from"
    ):
        fit(tiny(classes=3), (x, label), validation=x, **how)
    with pytest.raises(
        ValueError, match=r"^the validation data have the condition 'label', and those that Model learns from"
    ):
        fit(tiny(classes=3), x, validation=(x, label), **how)
    assert fit(tiny(classes=3), (x, label), validation=x, p_uncond=0.5, **how).validation


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        ({"validate_every": 0}, ValueError, r"^validate_every = 0; it must be a whole number"),
        ({"validation": iter([])}, ValueError, r"gave no batch"),
        ({"validation": torch.zeros(4, 2).byte()}, TypeError, r"dtype torch\.uint8; convert"),
    ],
    ids=["every", "empty", "bytes"],
)
def test_what_cannot_be_measured_is_refused(tiny, asked, error, says):
    with pytest.raises(error, match=says):
        fit(tiny(), RING, steps=1, batch_size=4, seed=0, **asked)


def test_an_iterator_cannot_be_gone_through_twice(tiny, x):
    with pytest.raises(ValueError, match=r"list_iterator, which can be gone through only once; give an iterable"):
        fit(tiny(), RING, steps=1, batch_size=4, seed=0, validation=iter(list(x.split(10))))


def test_a_validation_that_is_not_finite_says_where(tiny, x):
    def loss(model, x, generator=None):
        if not model.training:
            raise sdegen.NonFiniteLoss("the loss is not finite at t = 0.5")
        return (model.net(x, x[:, 0]) - 1).square().sum(1)

    with pytest.raises(
        sdegen.NonFiniteLoss, match=r"^in the validation after step 3, the loss is not finite at t = 0\.5"
    ):
        fit(tiny(), RING, steps=3, batch_size=4, seed=0, loss=loss, validation=x)


def test_a_loss_that_does_not_look_for_itself_is_looked_at(tiny, x):
    def loss(model, x, generator=None):
        values = (model.net(x, x[:, 0]) - 1).square().sum(1)
        return values if model.training else values.index_fill(0, torch.tensor([1], device=x.device), math.nan)

    with pytest.raises(
        sdegen.NonFiniteLoss, match=r"^in the validation after step 3, the loss is not finite \(13 of 50 rows\)"
    ):
        fit(tiny(), RING, steps=3, batch_size=4, seed=0, loss=loss, validation=x)


def test_a_validation_in_bfloat16_comes_near_the_one_without(device):
    values = []
    for autocast in (None, torch.bfloat16):
        torch.manual_seed(0)
        model = sdegen.Model(sdegen.nets.MLP(2, width=8, depth=1), sdegen.VP()).to(device)
        run = fit(model, RING, steps=4, batch_size=64, seed=0, autocast=autocast, validation=RING)
        values.append(run.validation[4].value)
    assert 0 < abs(values[1] - values[0]) < 1e-2 * abs(values[0]) and math.isfinite(values[0])


def test_scaled_images_are_validated_on() -> None:
    train, test = sdegen.data.digits().split(0.8, seed=0)
    model = sdegen.Model(sdegen.nets.UNet(channels=1, widths=(8,), classes=10), sdegen.DDPM())
    run = sdegen.fit(
        model, train.scaled(-1, 1), steps=2, batch_size=8, seed=0, validation=test.scaled(-1, 1), validate_every=2
    )
    assert list(run.validation) == [2]


def of_one_row(kind):
    x = RING.sample(1, torch.Generator().manual_seed(1)).float()
    images = sdegen.data.Images(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))
    return {
        "tensor": x,
        "pair": (x, {"label": torch.zeros(1, dtype=torch.long)}),
        "loader": DataLoader(x, batch_size=4),
        "data set": torch.utils.data.TensorDataset(x),
        "images": images.scaled(-1, 1),
    }[kind]


@pytest.mark.parametrize("kind", ["tensor", "pair", "loader", "data set", "images"])
def test_data_of_one_row_are_refused_before_the_first_step(kind):
    """Of one row there is no standard error."""
    torch.manual_seed(0)
    net = sdegen.nets.MLP(2, width=8, depth=1, classes=2 if kind == "pair" else 0)
    data, steps = RING, []
    if kind == "pair":
        data = RING.sample(20), {"label": torch.arange(20) % 2}
    if kind == "images":
        net = sdegen.nets.UNet(1, widths=(8, 8))
        data = sdegen.data.Images(torch.arange(128, dtype=torch.uint8).reshape(2, 1, 8, 8)).scaled(-1, 1)
    model = sdegen.Model(net, sdegen.VP())
    with pytest.raises(ValueError, match=r"^validation holds 1 datum; give at least 2"):
        fit(
            model,
            data,
            steps=2,
            batch_size=4,
            seed=0,
            validation=of_one_row(kind),
            callbacks=[lambda step: steps.append(step.step)],
        )
    assert not steps
