"""Networks: row by row functions of a state and a level, differentiable forwards and backwards, all of them trained."""

from __future__ import annotations

import math

import pytest
import torch

from sdegen.nets import MLP, CoordinateTransformer, Fourier, HyperMLP, Sinusoidal
from sdegen.nets.blocks import ResBlock
from sdegen.nets.entries import LabelEntry
from sdegen.nets.transformer import AttentionLayer

NETS = {
    "mlp": lambda dim: MLP(dim, width=16, depth=2),
    "plain mlp": lambda dim: MLP(dim, width=16, depth=2, residual=False),
    "mlp of classes": lambda dim: MLP(dim, width=16, depth=1, classes=3),
    "mlp on fourier": lambda dim: MLP(dim, width=16, depth=1, embedding=Fourier(8, scale=0.5)),
    "hyper": lambda dim: HyperMLP(dim, width=12, depth=2, rank=2),
    "transformer": lambda dim: CoordinateTransformer(dim, width=16, depth=2, heads=2),
}


@pytest.fixture(params=NETS, ids=str)
def build(awake, request, device, dtype):
    """A network for states of a size."""

    def built(dim, fresh=False):
        torch.manual_seed(0)
        net = NETS[request.param](dim).to(device, dtype)
        return net if fresh else awake(net)

    return built


def close(a, b, eps):
    torch.testing.assert_close(a, b, rtol=10 * eps, atol=10 * eps)


def test_rows_are_independent(build, draw, eps):
    net, x, level = build(3), draw(6, 3), draw(6)
    together = net(x, level)
    close(together, torch.cat([net(x[i : i + 1], level[i : i + 1]) for i in range(6)]), eps)
    moved = x.clone()
    moved[0] += 1.0
    changed = net(moved, level)
    close(changed[1:], together[1:], eps)
    assert (changed[0] - together[0]).abs().max() > 1e-3


def test_one_level_is_that_level_for_every_row(build, draw, eps):
    net, x, level = build(3), draw(5, 3), draw(1)
    close(net(x, level), net(x, level.expand(5)), eps)
    assert (net(x, level) - net(x, level + 0.5)).abs().max() > 1e-3  # and it matters


@pytest.mark.parametrize("shape", [(6,), (2, 3), (3, 1, 2), (1, 2, 3)], ids=str)
def test_a_state_of_any_shape_is_its_flat_self(build, draw, shape, eps):
    net, x, level = build(6), draw(4, *shape), draw(4)
    out = net(x, level)
    assert out.shape == x.shape
    close(out.flatten(1), net(x.flatten(1), level), eps)


def test_a_batch_of_numbers_is_a_batch_of_one_coordinate(build, draw, eps):
    net, x, level = build(1), draw(4), draw(4)
    close(net(x, level), net(x[:, None], level)[:, 0], eps)


def test_networks_start_at_zero(build, draw):
    # What is asked of a fresh model is then the parametrisation's own answer.
    assert not build(3, fresh=True)(draw(4, 3), draw(4)).any()


def test_forward_derivatives_are_finite_differences(build, draw):
    net = build(3).double()
    x, level, direction = draw(4, 3).double(), draw(4).double(), draw(4, 3).double()
    f = lambda y: net(y, level)
    value, slope = torch.func.jvp(f, (x,), (direction,))
    h = 1e-5
    torch.testing.assert_close(value, f(x), rtol=1e-12, atol=1e-12)
    central = (f(x + h * direction) - f(x - h * direction)) / (2 * h)
    torch.testing.assert_close(slope, central, rtol=1e-6, atol=1e-8)
    assert slope.abs().max() > 1e-3


def test_forward_derivatives_agree_with_backward_ones(build, draw):
    net = build(2).double()
    x, level = draw(3, 2).double(), draw(3).double()
    rows = torch.func.vmap(torch.func.jacrev(lambda row, u: net(row[None], u[None])[0]))(x, level)
    for i in range(2):
        direction = torch.zeros_like(x)
        direction[:, i] = 1.0
        slope = torch.func.jvp(lambda y: net(y, level), (x,), (direction,))[1]
        torch.testing.assert_close(slope, rows[:, :, i], rtol=1e-10, atol=1e-12)


def test_gradients_reach_every_parameter(build, draw, device):
    net = build(3)
    cond = {"label": torch.tensor([-1, 0, 1, 2], device=device)} if getattr(net, "classes", 0) else {}
    net(draw(4, 3), draw(4), **cond).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_twice_the_coordinates_are_twice_the_channels(awake, draw, device, dtype, eps):
    torch.manual_seed(0)
    net = awake(MLP(6, width=8, depth=1, out=12).to(device, dtype))
    x, level = draw(4, 2, 3), draw(4)
    out = net(x, level)
    assert out.shape == (4, 4, 3)
    flat = net(x.flatten(1), level)
    assert flat.shape == (4, 12)
    close(out.flatten(1), flat, eps)  # the first half of the channels is the first half of the outputs


# --- labels -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def labelled(awake, device, dtype):
    torch.manual_seed(0)
    return awake(MLP(2, width=16, depth=1, classes=3).to(device, dtype))


def test_the_null_label_is_no_label(labelled, draw, device):
    x, level = draw(5, 2), draw(5)
    none = labelled(x, level)
    for label in (torch.full((5,), -1, device=device), torch.tensor(-1, device=device), -1):
        assert torch.equal(labelled(x, level, label=label), none)


def test_labels_go_with_their_rows(labelled, draw, device, eps):
    x, level = draw(4, 2), draw(1)
    labels = torch.tensor([2, 0, -1, 1], device=device)
    together = labelled(x, level, label=labels)
    for i, label in enumerate(labels.tolist()):
        close(together[i], labelled(x, level, label=label)[i], eps)
    other = labelled(x, level, label=labels.roll(1))
    assert ((together - other).abs().amax(1) > 1e-4).all()  # every label means something else


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (torch.tensor([0, 1, 2, 3]), r"label reaches 3; labels run from 0 to 2, and -1 means none"),
        (torch.tensor(7), r"label reaches 7; labels run from 0 to 2"),
        (torch.tensor([0.0, 1.0, 2.0, 0.0]), r"label has dtype torch.float32; give whole numbers from -1 to 2"),
        (
            torch.tensor([0, 1]),
            r"label has shape \(2,\); give whole numbers from -1 to 2, one for all rows or one for each of 4",
        ),
        (torch.zeros(4, 1, dtype=torch.long), r"shape \(4, 1\); give whole numbers"),
        (torch.tensor([0, -2, 1, 1]), r"label reaches -2"),
    ],
    ids=["too large", "one too large", "floating", "too few", "two-dimensional", "too small"],
)
def test_wrong_labels_are_refused(labelled, draw, label, message):
    """On the CPU: of those on an accelerator no network looks at the numbers."""
    with pytest.raises((TypeError, ValueError), match=message):
        labelled(draw(4, 2), draw(1), label=label)


def test_a_label_for_a_network_without_classes_is_refused(device, dtype, draw):
    net = MLP(2, width=8, depth=1).to(device, dtype)
    with pytest.raises(
        TypeError, match=r"no condition 'label', it was constructed with none; construct it with conditions="
    ):
        net(draw(3, 2), draw(1), label=torch.zeros(3, dtype=torch.long, device=device))


# --- embeddings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("embedding", [Sinusoidal(6), Fourier(6, scale=0.7)], ids=["sinusoidal", "fourier"])
def test_features_turn_at_their_frequencies(embedding):
    embedding = embedding.double()
    u = torch.tensor([-1.3, 0.0, 0.4], dtype=torch.float64)
    sin, cos = embedding(u).chunk(2, 1)
    torch.testing.assert_close(sin.square() + cos.square(), torch.ones(3, 3, dtype=torch.float64))
    slope = torch.func.jvp(embedding, (u,), (torch.ones_like(u),))[1]
    torch.testing.assert_close(slope.chunk(2, 1)[0], embedding.frequencies * cos)


def test_sinusoidal_frequencies_are_a_geometric_progression():
    frequencies = Sinusoidal(10, slowest=0.5, fastest=8.0).frequencies.double()
    torch.testing.assert_close(frequencies, 0.5 * 2.0 ** torch.arange(5).double(), rtol=1e-6, atol=0.0)


def test_fourier_frequencies_have_their_scale_and_are_kept():
    torch.manual_seed(0)
    n, scale = 20_000, 3.0
    embedding = Fourier(2 * n, scale)
    spread = (embedding.frequencies / (2 * math.pi)).std().item()
    assert abs(spread - scale) < 4 * scale / math.sqrt(2 * n)
    assert "frequencies" in embedding.state_dict()  # random, so it must travel with the weights
    assert not Sinusoidal(8).state_dict()  # which is the same everywhere


def test_labels_have_a_vector_each_and_one_for_none():
    torch.manual_seed(0)
    table, e, x = LabelEntry(3, 5), torch.zeros(1, 5), torch.zeros(4, 1, 2)
    vectors = table(torch.tensor([-1, 0, 1, 2]), e, x)[0]
    assert (torch.cdist(vectors, vectors) + 10 * torch.eye(4) > 0.1).all()
    assert torch.equal(table(None, e, x)[0], vectors[:1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MLP(0), r"dim = 0, .*give positive sizes"),
        (lambda: HyperMLP(2, rank=0), r"rank = 0: give positive sizes"),
        (lambda: CoordinateTransformer(2, width=6, heads=4), r"width = 6, .*heads = 4: heads must divide width"),
        (lambda: Sinusoidal(3), r"dim = 3; an embedding has an even number of features"),
        (lambda: Fourier(1), r"dim = 1; an embedding has an even number of features"),
    ],
    ids=["mlp", "hyper", "transformer", "sinusoidal", "fourier"],
)
def test_impossible_sizes_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_batch_normalisation_makes_every_unit_of_a_batch_one_of_mean_0_and_variance_1() -> None:
    torch.manual_seed(0)
    net = MLP(2, width=16, depth=1, batch_norm=True).double()
    kept: list[torch.Tensor] = []
    net.blocks[0].norm.register_forward_hook(lambda part, given, out: kept.append(out))
    x, level = torch.randn(400, 2).double(), torch.linspace(-1, 1, 400).double()
    for scale in (1.0, 7.0):
        net(scale * x + 3, level)
        assert kept[-1].mean(0).abs().max() < 1e-12
        assert (kept[-1].var(0, correction=0) - 1).abs().max() < 0.02  # eps = 1e-5 beside variances that are small
    one = net.eval()(x[:1], level[:1])
    assert torch.allclose(net(x, level)[:1], one)  # once trained, of no other row
    assert not any("norm" in name for name in MLP(2).state_dict())


def test_attention_of_coordinates_is_that_of_torch() -> None:
    torch.manual_seed(0)
    layer, h = AttentionLayer(12, 3).double(), torch.randn(5, 4, 12).double()
    q, k, v = (part.unflatten(2, (3, 4)).transpose(1, 2) for part in layer.qkv(layer.norm_1(h)).chunk(3, 2))
    seen = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    want = h + layer.join(seen)
    torch.testing.assert_close(layer(h), want + layer.feed(layer.norm_2(want)))


def test_a_block_drops_so_many_numbers_in_training_alone() -> None:
    """Of the hidden numbers: with an identity after them and no skipped part, the share that is zero."""
    torch.manual_seed(0)
    block = ResBlock(4, 4, 8, dropout=0.3)
    torch.nn.init.dirac_(block.conv_2.weight)
    x, e = torch.randn(64, 4, 8, 8), torch.randn(64, 8)
    dropped, whole = (block.train(mode)(x, e) - x for mode in (True, False))
    share = (dropped == 0).double().mean().item()
    assert abs(share - 0.3) < 4.5 * (0.3 * 0.7 / x.numel()) ** 0.5 and (whole == 0).double().mean() < 0.01
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], (whole / 0.7)[kept], rtol=1e-3, atol=1e-5)
