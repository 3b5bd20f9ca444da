"""A batch in parts gives what it gives at once; autocast reaches the network alone; conditions are dropped by chance."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sdegen
from sdegen import fit, losses, nets, weightings
from sdegen.data import Batch
from sdegen.training.dropping import Drop
from sdegen.training.gradients import Gradient, answering
from sdegen.training.workers import Workers

RING = sdegen.data.gaussian_ring()
flat = lambda tensors: torch.cat([t.detach().flatten() for t in tensors])


class Watched(nn.Module):
    """A network of one layer that tells what it was called with."""

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(2, 2)
        self.seen = []

    def forward(self, x, level, **cond):
        out = self.line(x)
        self.seen.append((x, level, cond, out.dtype))
        return out


# --- parts of a batch -------------------------------------------------------------------------------------------------

mlp = lambda **kwargs: nets.MLP(2, width=8, depth=1, **kwargs)
CASES = {
    "pooled": (lambda: sdegen.Model(mlp(), sdegen.VP()), losses.Denoising(), False),
    "antithetic": (lambda: sdegen.Model(mlp(), sdegen.VP()), losses.Denoising(antithetic=True), False),
    "labelled": (lambda: sdegen.Model(mlp(classes=3), sdegen.VP()), losses.Denoising(), True),
    "input perturbation": (lambda: sdegen.Model(mlp(), sdegen.VP()), losses.InputPerturbation(0.1), False),
    "implicit": (lambda: sdegen.Model(mlp(), sdegen.OU()), losses.Implicit(), False),
    "hybrid": (
        lambda: sdegen.LearnedVariance(mlp(out=4), sdegen.VP(), sdegen.models.VelocityParametrization()),
        losses.Hybrid(steps=10),
        False,
    ),
    "matrices": (
        lambda: sdegen.Model(nets.MLP(4, width=8, depth=1), sdegen.CLD()),
        losses.Denoising(weightings.UniformWeighting()),
        False,
    ),
    "nonlinear": (lambda: sdegen.DirectModel(mlp(), sdegen.DoubleWell(T=1.0)), losses.Denoising(), False),
}


@pytest.mark.thinned(2)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("parts", [2, 5])
def test_parts_add_up_to_the_gradient_of_the_batch(case, parts, device, dtype, eps):
    built, objective, labelled = CASES[case]
    torch.manual_seed(0)
    model = built().to(device, dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, device=device, dtype=dtype))  # last layers start at zero
    parameters = list(model.parameters())
    x = RING.sample(17, torch.Generator().manual_seed(1)).to(device, dtype)  # no multiple of the parts
    batch = Batch(x, {"label": torch.arange(17, device=device) % 3} if labelled else {})
    found = []
    for accumulate in (1, parts):
        generator = torch.Generator().manual_seed(2)
        model.zero_grad()
        gradient = Gradient(model, objective, parameters, generator, Workers(device), accumulate)
        mean = gradient(batch)
        found.append((mean, flat(p.grad for p in parameters), generator.get_state()))
    one, many = found
    torch.testing.assert_close(many[0], one[0], rtol=eps, atol=eps)
    assert (many[1] - one[1]).norm() < eps * one[1].norm() and one[1].norm() > 0
    assert torch.equal(many[2], one[2])  # both leave the same random numbers to the next step


def test_a_run_in_parts_is_the_run_at_once(device, dtype, eps):
    curves = []
    for accumulate in (1, 3):
        torch.manual_seed(0)
        model = sdegen.Model(mlp(), sdegen.VP()).to(device, dtype)
        curves.append(fit(model, RING, steps=8, batch_size=16, seed=0, warmup=1, accumulate=accumulate).loss)
    assert curves[1] == pytest.approx(curves[0], rel=10 * eps) and curves[0][0] != curves[0][-1]


def test_the_network_sees_every_row_once_and_its_own_conditions(device, dtype):
    model = sdegen.Model(Watched(), sdegen.VP()).to(device, dtype)
    x = RING.sample(10, torch.Generator().manual_seed(1)).to(device, dtype)
    label = torch.arange(10, device=device)
    Gradient(model, losses.Denoising(), list(model.parameters()), torch.Generator(), Workers(device), 4)(
        Batch(x, {"label": label, "mode": torch.tensor(1.0)})
    )
    assert [len(seen[0]) for seen in model.net.seen] == [2, 3, 2, 3]
    assert all(len(level) == len(cond["label"]) == len(x) for x, level, cond, _ in model.net.seen)
    assert torch.equal(torch.cat([cond["label"] for _, _, cond, _ in model.net.seen]), label)
    assert all(cond["mode"].shape == () for _, _, cond, _ in model.net.seen)


def test_a_network_answers_for_itself_again_afterwards(device, dtype):
    net = nn.Linear(2, 2).to(device, dtype)
    x = torch.ones(4, 2, device=device, dtype=dtype)
    with pytest.raises(RuntimeError, match="inside"), answering(net, slice(1, 3), 4, None):  # noqa: PT012
        out = net(x)
        torch.testing.assert_close(out[1:3], nn.functional.linear(x, net.weight, net.bias)[1:3])
        assert not out[[0, 3]].any()
        raise RuntimeError("inside")
    assert "forward" not in vars(net) and net(x).all()


def test_a_loss_that_asks_about_other_rows_is_refused_in_parts(device, dtype):
    model = sdegen.Model(mlp(), sdegen.VP()).to(device, dtype)

    def twice(model, x, generator=None):
        return losses.Denoising()(model, torch.cat([x, x]), generator=generator)[: len(x)]

    assert fit(model, RING, steps=1, batch_size=4, seed=0, loss=twice).steps == 1
    with pytest.raises(ValueError, match=r"asked the network about 8 rows for a batch of 4; accumulate"):
        fit(model, RING, steps=1, batch_size=4, seed=0, loss=twice, accumulate=2)


def test_parts_need_a_network_of_their_own(device, dtype):
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Parameter(torch.zeros(()))

        def loss(self, x, generator=None):
            return (x - self.a).square().sum(1)

    model = Whole().to(device, dtype)
    assert fit(model, RING, steps=1, batch_size=4, seed=0).steps == 1
    for asked in ({"accumulate": 2}, {"autocast": torch.bfloat16}):
        with pytest.raises(TypeError, match=r"Whole has no network named net, which accumulate, autocast"):
            fit(model, RING, steps=1, batch_size=4, seed=0, **asked)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"accumulate": 0}, r"^accumulate = 0; .* at least 1"),
        ({"accumulate": 5}, r"^batch_size = 4 cannot be split in 5"),
        ({"autocast": torch.float16}, r"^autocast = torch\.float16; give torch\.bfloat16"),
        ({"snapshots": 0}, r"^snapshots = 0; .* at least 1"),
        ({"every": 0}, r"^every = 0; .* at least 1"),
    ],
)
def test_what_cannot_be_is_refused(asked, message, device, dtype):
    with pytest.raises(ValueError, match=message):
        fit(sdegen.Model(mlp(), sdegen.VP()).to(device, dtype), RING, steps=1, batch_size=4, **asked)


# --- precision --------------------------------------------------------------------------------------------------------


def test_autocast_reaches_the_network_alone(device):
    x = RING.sample(12, torch.Generator().manual_seed(1)).to(device, torch.float32)
    dtypes, means, grads = [], [], []
    for autocast in (None, torch.bfloat16):
        torch.manual_seed(0)
        model = sdegen.Model(Watched(), sdegen.VP()).to(device)

        def objective(model, x, generator=None):
            assert not torch.is_autocast_enabled(x.device.type)
            return losses.Denoising()(model, x, generator=generator)

        parameters, generator = list(model.parameters()), torch.Generator().manual_seed(0)
        means.append(Gradient(model, objective, parameters, generator, Workers(device), 1, autocast)(Batch(x, {})))
        grads.append(flat(p.grad for p in parameters))
        dtypes.append(model.net.seen[0][3])
        assert {p.grad.dtype for p in parameters} == {p.dtype for p in parameters} == {torch.float32}
    assert dtypes == [torch.float32, torch.bfloat16] and means[1].dtype == torch.float32
    assert 0 < (means[1] - means[0]).abs() < 1e-2 * means[0]
    assert 0 < (grads[1] - grads[0]).norm() < 2e-2 * grads[0].norm()


@pytest.mark.parametrize("sde", [sdegen.VP, sdegen.CLD])
def test_autocast_leaves_the_process_in_full_precision(sde, device):
    """A network without products is not changed by it, so neither must be the loss, matrices and pooled targets included."""

    class Gain(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Parameter(torch.tensor(0.3))

        def forward(self, x, level):
            return self.a * x

    model = sdegen.Model(Gain(), sde()).to(device)
    x = RING.sample(12, torch.Generator().manual_seed(1)).to(device, torch.float32)
    values = [
        Gradient(model, losses.Denoising(), [model.net.a], torch.Generator().manual_seed(0), Workers(device), 1, cast)(
            Batch(x, {})
        ).item()
        for cast in (None, torch.bfloat16)
    ]
    assert values[0] == values[1]


def test_a_run_in_bfloat16_comes_near_the_one_without(device):
    curves = []
    for autocast in (None, torch.bfloat16):
        torch.manual_seed(0)
        model = sdegen.Model(mlp(), sdegen.VP()).to(device)
        curves.append(torch.tensor(fit(model, RING, steps=20, batch_size=64, seed=0, autocast=autocast).loss))
        assert all(p.dtype == torch.float32 for p in model.parameters())
    assert 0 < (curves[1] - curves[0]).norm() < 1e-2 * curves[0].norm()


# --- conditions that are dropped --------------------------------------------------------------------------------------


def test_conditions_are_lost_with_the_probability_asked_for(device, generator):
    """Counts per batch have the binomial law: mean, variance, and no memory from one row to the next."""
    n, repeats, p = 64, 400, 0.15
    label = torch.arange(n, device=device) % 5
    drop = Drop(p, None, {"label": label})
    lost = torch.stack(
        [drop(Batch(torch.zeros(n, 2), {"label": label}), generator).cond["label"].cpu() == -1 for _ in range(repeats)]
    ).double()
    counts = lost.sum(1)
    assert abs(lost.mean().item() - p) < 4 * (p * (1 - p) / (n * repeats)) ** 0.5
    assert counts.var().item() == pytest.approx(n * p * (1 - p), rel=4 * (2 / repeats) ** 0.5)
    pairs = ((lost[:, 1:] - p) * (lost[:, :-1] - p)).mean().item() / (p * (1 - p))
    assert abs(pairs) < 4 / (repeats * (n - 1)) ** 0.5
    by_class = torch.stack([lost[:, label.cpu() == k].mean() for k in range(5)])
    assert (by_class - p).abs().max().item() < 4.5 * (p * (1 - p) / (n * repeats / 5)) ** 0.5


def test_a_row_loses_what_is_named_and_all_of_it_at_once(device, generator):
    n = 200
    cond = {
        "label": torch.arange(n, device=device),
        "text": torch.randn(n, 3, device=device, generator=generator),
        "mask": torch.ones(n, device=device),
    }
    before = {name: value.clone() for name, value in cond.items()}
    empty = torch.tensor([7.0, 8.0, 9.0], dtype=torch.float64)
    batch = Batch(torch.zeros(n, 2, device=device), cond)
    after = Drop(0.5, {"label": -1, "text": empty}, cond)(batch, generator)
    lost = after.cond["label"] == -1
    assert 60 < lost.sum() < 140
    assert torch.equal(after.cond["text"][lost], empty.to(after.cond["text"]).expand(int(lost.sum()), 3))
    for name in ("label", "text"):
        assert (
            torch.equal(after.cond[name][~lost], before[name][~lost]) and after.cond[name].dtype == before[name].dtype
        )
    assert after.cond["mask"] is cond["mask"] and after.x is batch.x
    assert all(torch.equal(cond[name], value) for name, value in before.items())  # the data stays as it is


@pytest.mark.parametrize(("p", "kept"), [(0.0, 1.0), (1.0, 0.0), (0.3, 0.7)])
def test_the_network_is_told_of_the_null_condition(p, kept, device, dtype):
    model = sdegen.Model(Watched(), sdegen.VP()).to(device, dtype)
    x = RING.sample(50, torch.Generator().manual_seed(1)).to(device, dtype)
    fit(model, (x, torch.arange(50, device=device)), steps=20, batch_size=50, seed=0, p_uncond=p)
    labels = torch.stack([cond["label"] for _, _, cond, _ in model.net.seen])
    assert abs((labels >= 0).double().mean().item() - kept) < 4 * (p * (1 - p) / 1000) ** 0.5 + 1e-9


def test_no_loss_of_conditions_draws_no_number(device, dtype):
    x = RING.sample(30, torch.Generator().manual_seed(1)).to(device, dtype)
    runs = []
    for asked in ({}, {"p_uncond": 0.0, "null": {"label": -1}}, {"p_uncond": 0.2}):
        torch.manual_seed(0)
        model = sdegen.Model(mlp(classes=2), sdegen.VP()).to(device, dtype)
        runs.append(fit(model, (x, torch.arange(30, device=device) % 2), steps=4, batch_size=10, seed=0, **asked).loss)
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"p_uncond": 1.5}, r"^p_uncond = 1\.5; it must be .* a probability"),
        ({"p_uncond": 0.1, "null": {"text": 0.0}}, r"no condition 'text', only \['label'\]; name those to drop"),
        ({"p_uncond": 0.1, "null": {}}, r"null is empty; name the conditions to drop"),
    ],
)
def test_losses_that_make_no_sense_are_refused(asked, message, device, dtype):
    x = torch.zeros(4, 2, device=device, dtype=dtype)
    model = sdegen.Model(mlp(classes=2), sdegen.VP()).to(device, dtype)
    with pytest.raises(ValueError, match=message):
        fit(model, (x, torch.zeros(4, dtype=torch.long)), steps=1, batch_size=4, **asked)
    with pytest.raises(ValueError, match=r"the data has no condition 'label', only \[\]"):
        fit(model, RING, steps=1, batch_size=4, p_uncond=0.1)


@pytest.mark.parametrize(
    ("value", "null", "message"),
    [
        (
            torch.zeros(4, dtype=torch.uint8),
            -1,
            r"^null\['label'\] = -1 is no torch\.uint8, which the condition is; convert",
        ),
        (torch.zeros(4, dtype=torch.long), 0.5, r"^null\['label'\] = 0\.5 is no torch\.int64"),
        (
            torch.zeros(4),
            torch.zeros(4),
            r"^null\['label'\] has shape \(4,\), a row of the condition \(\); give a number, or",
        ),
        (torch.zeros(4, 3), torch.zeros(4, 3), r"^null\['label'\] has shape \(4, 3\), a row of the condition \(3,\)"),
    ],
)
def test_a_null_value_that_the_condition_cannot_take_is_refused(value, null, message):
    with pytest.raises(ValueError, match=message):
        Drop(0.1, {"label": null}, {"label": value})
    Drop(0.0, {"label": null}, {"label": value})  # nothing is dropped


def test_a_loss_of_other_than_one_value_per_datum_is_refused(device, dtype):
    """Its sum over the rows of a part would be another multiple of its mean."""
    model = sdegen.Model(mlp(), sdegen.VP()).to(device, dtype)
    loss = lambda model, x, generator=None: (model.net(x, x[:, 0]) - x).square()
    for parts in (1, 2):
        with pytest.raises(ValueError, match=r"the loss returned shape \(4, 2\), where \(4,\) .* one value per datum"):
            fit(model, RING, steps=1, batch_size=4, seed=0, loss=loss, accumulate=parts)


@pytest.mark.parametrize("number", [1, 3])
def test_sums_over_processes_are_those_of_every_gradient(number: int) -> None:
    class TwoAlike:
        def reduce(self, value: torch.Tensor, how: str) -> torch.Tensor:
            assert how == "sum"
            return 2 * value

    workers = Workers(torch.device("cpu"))
    workers._talk = TwoAlike()
    parameters = [torch.nn.Parameter(torch.ones(k + 1, 2)) for k in range(number)]
    for k, p in enumerate(parameters[:2]):
        p.grad = torch.full_like(p, k + 0.5)
    assert workers.add(torch.tensor(0.7), iter(parameters)) == pytest.approx(1.4)
    assert [None if p.grad is None else p.grad.unique().item() for p in parameters] == [1.0, 3.0, None][:number]
