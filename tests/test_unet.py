"""Networks on images: any size and number of channels, told level and label, equal in every layout, and able to learn."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import sdegen
from sdegen import models
from sdegen.nets import DiT, UNet
from sdegen.nets.attention import SelfAttention, attend
from sdegen.nets.blocks import AttentionBlock, Norm, ResBlock

NETS = {
    "unet": lambda channels=1, **kw: UNet(channels, (8, 16), **kw),
    "unet of one level": lambda channels=1, **kw: UNet(channels, (8,), blocks=2, **kw),
    "unet of three": lambda channels=1, **kw: UNet(channels, (4, 8, 6), attention=(0, 2), **kw),
    "patched unet": lambda channels=1, **kw: UNet(channels, (8, 12), patch=2, attention=(1,), **kw),
    "dit": lambda channels=1, **kw: DiT(channels, patch=1, width=8, depth=2, **kw),
    "patched dit": lambda channels=1, **kw: DiT(channels, patch=2, width=8, depth=2, **kw),
}


@pytest.fixture(params=NETS, ids=str)
def build(awake, request, device, dtype):
    """A small network for images of some channels."""

    def built(channels=1, fresh=False, **kw):
        torch.manual_seed(0)
        net = NETS[request.param](channels, **kw).to(device, dtype)
        return net if fresh else awake(net)

    return built


def close(a, b, eps):
    torch.testing.assert_close(a, b, rtol=10 * eps, atol=10 * eps)


# --- shapes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(8, 8), (16, 16), (28, 28), (32, 32), (6, 10)], ids=str)
def test_images_of_any_size_come_back_in_their_shape(build, draw, height, width):
    x = draw(2, 1, height, width)
    out = build()(x, draw(2))
    assert out.shape == x.shape and out.dtype == x.dtype and out.is_contiguous()
    assert out.isfinite().all() and (out.flatten(1).std(1) > 1e-3).all()


@pytest.mark.parametrize(("height", "width"), [(17, 23), (5, 1), (1, 1), (7, 8)], ids=str)
@pytest.mark.parametrize("name", NETS)
def test_a_network_takes_sizes_that_levels_and_patches_do_not_divide(awake, name, draw, device, dtype, height, width):
    net = awake(NETS[name]().to(device, dtype))
    x = draw(2, 1, height, width)
    assert net(x, draw(2)).shape == x.shape


def test_a_small_image_is_continued_by_its_last_rows_and_columns(awake, draw, device, dtype, eps):
    net = awake(UNet(1, (8, 16), patch=2).to(device, dtype))
    x, level = draw(2, 1, 6, 7), draw(2)
    whole = torch.cat([x, x[..., -1:]], 3)
    whole = torch.cat([whole, whole[..., -1:, :].expand(-1, -1, 2, -1)], 2)
    close(net(x, level), net(whole, level)[..., :6, :7], eps)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_images_have_any_number_of_channels(build, draw, channels):
    x, level = draw(2, channels, 8, 8), draw(2)
    assert build(channels)(x, level).shape == x.shape
    assert build(channels, out_channels=2 * channels)(x, level).shape == (2, 2 * channels, 8, 8)


def test_rows_are_independent(build, draw, eps):
    net, x, level = build(2), draw(4, 2, 8, 8), draw(4)
    close(net(x, level), torch.cat([net(x[i : i + 1], level[i : i + 1]) for i in range(4)]), eps)


def test_every_place_sees_every_other(build, draw):
    net, x = build(), draw(1, 1, 16, 16).requires_grad_()
    for row, column in ((0, 0), (15, 15), (3, 12)):
        slope = torch.autograd.grad(net(x, draw(1))[0, 0, row, column], x)[0]
        assert (slope != 0).all()


@pytest.mark.parametrize("shape", [(4, 64), (4, 2, 8, 8), (1, 8, 8), (2, 1, 1, 8, 8)], ids=str)
def test_what_is_no_image_is_refused(build, draw, shape):
    with pytest.raises(ValueError, match=r"x has shape .*; the network takes images \(B, 1, H, W\)"):
        build()(draw(*shape), draw(shape[0]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: UNet(0), r"channels = 0, .*give positive sizes"),
        (lambda: UNet(1, ()), r"widths = \(\), .*give positive sizes"),
        (lambda: UNet(1, (8, 0)), r"widths = \(8, 0\), .*give positive sizes"),
        (lambda: UNet(1, (8, 8), attention=(2,)), r"attention = \(2,\); the levels of widths run from 0 to 1"),
        (lambda: UNet(1, (9,)), r"width = 9, heads = 2: heads must divide width"),
        (lambda: DiT(1, width=8, heads=3), r"width = 8, heads = 3: heads must divide width"),
        (lambda: DiT(1, width=2), r"width = 2, .*a width of at least 4"),
        (lambda: DiT(1, patch=0), r"patch = 0, .*give positive sizes"),
        (lambda: SelfAttention(8, 0), r"width = 8, heads = 0: heads must divide width"),
    ],
    ids=["channels", "levels", "widths", "attention", "heads", "dit heads", "dit width", "dit patch", "no heads"],
)
def test_impossible_sizes_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- conditions -------------------------------------------------------------------------------------------------------


def test_networks_start_at_zero(build, draw):
    assert not build(fresh=True)(draw(2, 1, 8, 8), draw(2)).any()


def test_one_level_is_that_level_for_every_row_and_matters(build, draw, eps):
    net, x, level = build(), draw(3, 1, 8, 8), draw(1)
    close(net(x, level), net(x, level.expand(3)), eps)
    assert ((net(x, level) - net(x, level + 0.5)).abs().amax((1, 2, 3)) > 1e-3).all()


def test_labels_go_with_their_rows_and_matter(build, draw, device, eps):
    net, x, level = build(classes=3), draw(4, 1, 8, 8), draw(1)
    labels = torch.tensor([2, 0, -1, 1], device=device)
    together = net(x, level, label=labels)
    for i, label in enumerate(labels.tolist()):
        close(together[i], net(x, level, label=label)[i], eps)
    assert ((together - net(x, level, label=labels.roll(1))).abs().amax((1, 2, 3)) > 1e-4).all()
    assert torch.equal(net(x, level), net(x, level, label=-1))
    with pytest.raises(ValueError, match=r"label reaches 3; labels run from 0 to 2"):
        net(x, level, label=3)
    with pytest.raises(TypeError, match=r"the network has no condition 'label', it was constructed with none"):
        build()(x, level, label=labels)


def test_every_residual_block_is_told(awake, draw, device, dtype):
    block = awake(ResBlock(4, 6, features=3).to(device, dtype))
    h, e = draw(1, 4, 5, 5), draw(2, 3)
    one, two = block(h, e[:1]), block(h, e[1:])
    assert ((one - two).abs().amax((0, 2, 3)) > 1e-4).all()  # in every channel


# --- blocks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 7, 49], ids=str)
def test_fused_attention_is_the_formula(generator, device, n):
    q, k, v = (torch.randn(2, 3, n, 8, generator=generator).to(device).requires_grad_() for _ in range(3))
    fused = attend(q, k, v)
    weights = torch.exp(q @ k.transpose(2, 3) / math.sqrt(8))
    written = (weights / weights.sum(3, keepdim=True)) @ v
    torch.testing.assert_close(fused, written, rtol=1e-6, atol=1e-6)
    for one, two in zip(*(torch.autograd.grad(y.square().sum(), (q, k, v)) for y in (fused, written))):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


def test_attention_takes_the_fused_kernel_where_that_is_fast(monkeypatch, device):
    calls = []
    fused = nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        nn.functional, "scaled_dot_product_attention", lambda q, k, v: calls.append(q.dtype) or fused(q, k, v)
    )
    q = torch.randn(1, 2, 5, 4, device=device, requires_grad=True)
    attend(q, q, q).sum().backward()
    attend(q.detach().bfloat16(), *2 * [q.detach().bfloat16()])
    assert calls == [torch.float32, torch.bfloat16]
    attend(*3 * [q.bfloat16()])  # with a gradient
    assert len(calls) == (2 if device.type == "cpu" else 3)


def test_heads_attend_each_by_itself(awake, draw, device, dtype, eps):
    layer = awake(SelfAttention(6, 2).to(device, dtype))
    h = draw(2, 5, 6)
    q, k, v = layer.qkv(h).chunk(3, 2)
    heads = [(q[..., d : d + 3] @ k[..., d : d + 3].mT / math.sqrt(3)).softmax(2) @ v[..., d : d + 3] for d in (0, 3)]
    close(layer(h), layer.join(torch.cat(heads, 2)), eps)


def test_attention_does_not_know_places(awake, draw, device, dtype, eps):
    block = awake(AttentionBlock(6, 2).to(device, dtype))
    h, order = draw(2, 6, 3, 4), torch.randperm(12)
    moved = h.flatten(2)[..., order].unflatten(2, (3, 4))
    close(block(moved), block(h).flatten(2)[..., order].unflatten(2, (3, 4)), eps)


def test_a_transformer_knows_its_places(awake, draw, device, dtype):
    net = awake(DiT(1, patch=1, width=8, depth=2).to(device, dtype))
    x, level = draw(1, 1, 4, 6), draw(1)
    for axis in (2, 3):
        assert (net(x.flip(axis), level) - net(x, level).flip(axis)).abs().max() > 1e-3


@pytest.mark.parametrize("channels", [*range(1, 40), 48, 64, 96, 100, 127, 128, 384])
def test_groups_are_equal_and_of_32_channels_or_more(channels):
    norm = Norm(channels)
    size = channels / norm.num_groups
    assert size == int(size) and size >= min(channels, 32)
    assert channels % 32 or size == 32


def test_blocks_start_as_their_skip(draw, device, dtype):
    h = draw(2, 8, 4, 4)
    assert torch.equal(ResBlock(8, 8, 3).to(device, dtype)(h, draw(2, 3)), h)
    assert torch.equal(AttentionBlock(8, 2).to(device, dtype)(h), h)
    wider = ResBlock(8, 5, 3).to(device, dtype)
    assert torch.equal(wider(h, draw(2, 3)), wider.skip(h))


# --- derivatives, layouts, precision ----------------------------------------------------------------------------------


def test_gradients_reach_every_parameter(build, draw, device):
    net = build(classes=3)
    net(draw(4, 1, 8, 8), draw(4), label=torch.tensor([-1, 0, 1, 2], device=device)).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_training_moves_every_parameter_within_a_few_steps(build, draw, device):
    """A zero-initialised layer stops the gradient at first; none may stop it for good."""
    net = build(fresh=True, classes=3)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimiser = torch.optim.SGD(net.parameters(), lr=0.5)
    for _ in range(4):
        optimiser.zero_grad()
        x, labels = draw(4, 1, 8, 8), torch.tensor([-1, 0, 1, 2], device=device)
        (net(x, draw(4), label=labels) - x).square().mean().backward()
        optimiser.step()
    for name, parameter in net.named_parameters():
        assert (parameter != before[name]).any(), name


def test_forward_derivatives_are_finite_differences(build, draw):
    """Exact divergences, and with them likelihoods, are made of these."""
    net = build().double()
    x, level, direction = (v.double() for v in (draw(2, 1, 6, 6), draw(2), draw(2, 1, 6, 6)))
    f = lambda y: net(y, level)
    value, slope = torch.func.jvp(f, (x,), (direction,))
    torch.testing.assert_close(value, f(x), rtol=1e-10, atol=1e-10)
    h = 1e-5
    central = (f(x + h * direction) - f(x - h * direction)) / (2 * h)
    torch.testing.assert_close(slope, central, rtol=1e-5, atol=1e-7)
    assert slope.abs().max() > 1e-3
    net = net.float()  # other kernels, in another layout
    single = torch.func.jvp(lambda y: net(y, level.float()), (x.float(),), (direction.float(),))[1]
    torch.testing.assert_close(single.double(), slope, rtol=1e-3, atol=1e-3)


def test_the_layout_in_memory_does_not_matter(build, draw, eps):
    net, x, level = build(3), draw(2, 3, 8, 8), draw(2)
    expected = net(x, level)
    close(net(x.contiguous(memory_format=torch.channels_last), level), expected, eps)
    close(net(x.mT.contiguous().mT, level), expected, eps)
    close(net.to(memory_format=torch.channels_last)(x, level), expected, eps)


def test_bfloat16_is_near_and_trains(build, generator, device):
    x, level = (torch.randn(s, generator=generator).to(device) for s in ((4, 1, 8, 8), (4,)))
    exact, half = (build(mixed=b).float() for b in (False, True))
    with torch.no_grad():
        one, two = exact(x, level), half(x, level)
    assert two.dtype == torch.float32
    error = ((one - two).square().mean() / one.square().mean()).sqrt()
    assert 1e-5 < error < 0.05  # it is another precision, and no other function
    slopes = []
    for net in (exact, half):
        net(x, level).square().mean().backward()
        assert all(p.dtype == p.grad.dtype == torch.float32 for p in net.parameters())
        slopes.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
    assert torch.cosine_similarity(*slopes, 0) > 0.99


# --- as models --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mixed", [False, True])
def test_a_model_comes_back_from_its_file(build, draw, tmp_path, device, mixed):
    kind = models.LearnedVariance if mixed else sdegen.Model
    net = build(2, classes=3, mixed=mixed, out_channels=4 if mixed else None)
    model = kind(net, sdegen.VP(), models.VelocityParametrization()).eval()
    sdegen.save(model, tmp_path / "model")
    again = sdegen.load(tmp_path / "model").to(device)
    x, label = draw(3, 2, 8, 8), torch.tensor([2, -1, 0], device=device)
    with torch.no_grad():
        assert torch.equal(again.velocity(x, 0.4, label=label), model.velocity(x, 0.4, label=label))


def test_a_model_samples(build, draw):
    model = sdegen.Model(build(), sdegen.VP(), models.VelocityParametrization()).eval()
    x = sdegen.sample(model, x_T=draw(2, 1, 4, 4), steps=3, seed=0)
    assert x.shape == (2, 1, 4, 4) and x.isfinite().all()


def test_a_model_has_an_exact_divergence(build, draw):
    """What likelihoods are made of: a forward derivative for every pixel, all at once."""
    net, x, level = build().double(), draw(2, 1, 4, 4).double(), draw(1).double()
    divergence = sdegen.derivatives.exact_divergence(lambda y: net(y, level), x)[1]
    jacobian = torch.autograd.functional.jacobian(lambda y: net(y, level), x).reshape(2, 16, 2, 16)
    traces = torch.stack([jacobian[i, :, i].trace() for i in range(2)])
    torch.testing.assert_close(divergence, traces, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("size", [8, 14, 28, 32], ids=str)
@pytest.mark.parametrize("cls", [UNet, DiT])
def test_small_networks_are_small(cls, size):
    net = cls.small(1, size, classes=10)
    assert 1.5e6 < sum(p.numel() for p in net.parameters()) < 2e6
    with torch.no_grad():
        assert net(torch.zeros(1, 1, size, size), torch.zeros(1)).shape == (1, 1, size, size)


def test_the_large_network_is_large():
    with torch.device("meta"):
        net = UNet.large(3, 32, classes=10, out_channels=6)
    assert 33e6 < sum(p.numel() for p in net.parameters()) < 37e6


LEARNERS = {"unet": lambda: UNet(1, (32, 32)), "dit": lambda: DiT(1, patch=2, width=64, depth=2)}


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.turns("dit")
def test_a_network_learns_a_handful_of_images(name, device):
    """The DDPM loss on 32 bars falls far below that of the best linear guess, pixel by pixel, with which EDM starts."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    x = -torch.ones(32, 1, 8, 8)
    for i in range(32):
        bar = x[i, 0, i % 8] if i < 16 else x[i, 0, :, i % 8]
        bar[:: 1 + i // 8 % 2] = 1.0
    x = x.to(device)
    model = sdegen.Model(LEARNERS[name]().to(device), sdegen.DDPM(), models.EDMParametrization(std=x.std().item()))
    loss = sdegen.losses.Denoising(pooled=False)
    judged = lambda: torch.stack([loss(model, x, generator=generator).mean().detach() for _ in range(20)]).mean()
    before = judged()
    sdegen.fit(model, x, steps=120, batch_size=32, lr=1e-2, warmup=20, loss=loss, seed=0, progress=False)
    assert judged() < 0.4 * before


@pytest.mark.parametrize("size", [(28, 40), (40, 28), (9, 33)])
def test_a_network_takes_height_and_width(size):
    """The patch is that of the shortest side, and images come back in their size."""
    net, plain = UNet.small(1, size), UNet.small(1, min(size))
    assert net.patch == plain.patch
    with torch.no_grad():
        assert net(torch.zeros(2, 1, *size), torch.zeros(2)).shape == (2, 1, *size)
    for wrong, words in (
        ((), r"size = \(\); give the side of images, or \(L,\), \(H, W\) or \(D, H, W\)"),
        ((28, 0), "size = 0"),
        ("28", r"or a tuple: \(L,\), \(H, W\) or \(D, H, W\)"),
        ((1, 2, 3, 4), r"size = \(1, 2, 3, 4\)"),
    ):
        with pytest.raises((ValueError, TypeError), match=words):
            UNet.large(1, wrong)
