"""Networks on signals and volumes: those on images, with a dimension less and one more."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sdegen
from sdegen.nets import DiT, Fields, Label, Set, UNet, Vector
from sdegen.nets.spatial import join_patches, split_patches
from sdegen.training import Settings, constant_rate

NETS = {
    "unet": lambda channels, dims, **kw: UNet(channels, (8, 12), attention=(0,), dims=dims, **kw),
    "patched unet": lambda channels, dims, **kw: UNet(channels, (8,), patch=2, dims=dims, **kw),
    "dit": lambda channels, dims, **kw: DiT(channels, 2, 12, 2, dims=dims, **kw),
}
GRIDS = {1: (9,), 2: (5, 4), 3: (5, 4, 3)}


@pytest.fixture(params=NETS, ids=str)
def build(awake, request, device, dtype):
    """A small network for states of some channels on a grid of some dimensions."""

    def built(channels, dims, **kw):
        torch.manual_seed(0)
        return awake(NETS[request.param](channels, dims, **kw).to(device, dtype))

    return built


def close(a, b, eps):
    torch.testing.assert_close(a, b, rtol=100 * eps, atol=100 * eps)


@pytest.mark.parametrize("grid", [(8,), (17,), (1,), (4, 4, 4), (5, 3, 7), (1, 6, 1), (1, 1, 1)], ids=str)
def test_states_of_any_size_come_back_in_their_shape(build, draw, grid):
    x = draw(2, 3, *grid)
    out = build(3, len(grid), out_channels=6)(x, draw(2))
    assert out.shape == (2, 6, *grid) and out.dtype == x.dtype and out.is_contiguous()
    assert out.isfinite().all() and out.flatten(1).std(1).min() > 1e-3


@pytest.mark.parametrize("dims", [1, 3])
def test_a_state_is_continued_by_its_last_places(build, draw, dims, eps):
    net, x, level = build(1, dims), draw(2, 1, *[3] * dims), draw(2)
    near = torch.tensor([0, 1, 2, 2], device=x.device)
    whole = x
    for axis in range(2, x.ndim):
        whole = whole.index_select(axis, near)
    close(net(x, level), net(whole, level)[(..., *dims * [slice(3)])], eps)


@pytest.mark.parametrize("dims", [1, 2])
def test_a_state_that_is_the_same_along_an_axis_is_one_without_it(awake, draw, dims, device, dtype, eps):
    """Kernels of one axis more that see nothing along it do what those without it do: 2 dimensions are known, 1 and 3 follow."""
    less, more = (awake(NETS["unet"](2, d).to(device, dtype)) for d in (dims, dims + 1))
    weights = dict(less.named_parameters())
    with torch.no_grad():
        for name, weight in more.named_parameters():
            own = weights[name]
            if weight.shape == own.shape:
                weight.copy_(own)
            else:
                weight.zero_()[:, :, weight.shape[2] // 2] = own
    x, level = draw(2, 2, *GRIDS[dims]), draw(2)
    out = more(x[:, :, None].expand(-1, -1, 6, *[-1] * dims), level)
    close(out, less(x, level)[:, :, None].expand(out.shape), eps)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_axes_of_a_kernel_are_those_of_the_grid(awake, draw, dims, device, dtype, eps):
    net, turned = (awake(NETS["patched unet"](1, dims).to(device, dtype)) for _ in range(2))
    axes = [0, 1, *reversed(range(2, 2 + dims))]
    with torch.no_grad():
        for one, two in zip(net.parameters(), turned.parameters()):
            two.copy_(one.permute(axes) if one.ndim == 2 + dims else one)
        for layer, places in ((turned.first, 1), (turned.last, 0)):  # and those inside of a patch
            inside = torch.arange(2**dims).reshape([2] * dims).permute(*reversed(range(dims))).flatten()
            layer.weight.copy_(layer.weight.index_select(places, inside.to(device)))
        turned.last.bias.copy_(turned.last.bias[inside.to(device)])
    x, level = draw(2, 1, *GRIDS[dims]), draw(2)
    close(turned(x.permute(axes), level), net(x, level).permute(axes), eps)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_transformer_knows_its_places_along_every_axis(awake, draw, dims, device, dtype):
    net = awake(DiT(1, patch=1, width=10, depth=1, dims=dims).to(device, dtype))
    x, level = draw(1, 1, *GRIDS[dims]), draw(1)
    for axis in range(2, x.ndim):
        assert (net(x.flip(axis), level) - net(x, level).flip(axis)).abs().max() > 1e-3
    told = net._positions(x)
    assert told.shape == (x[0, 0].numel(), 10) and (torch.cdist(told, told) + torch.eye(len(told))).min() > 1e-3


@pytest.mark.parametrize("side", [1, 2, 3])
def test_patches_are_those_of_torch_and_join_again(draw, side):
    x = draw(2, 3, 6, 12)
    assert torch.equal(split_patches(x, side), nn.functional.pixel_unshuffle(x, side))
    for dims in (1, 2, 3):
        x = draw(2, 3, *(6 * n for n in range(1, 1 + dims)))
        cut = split_patches(x, side)
        assert cut.shape == (2, 3 * side**dims, *(n // side for n in x.shape[2:]))
        assert torch.equal(join_patches(cut, side), x)


@pytest.mark.parametrize(
    ("dims", "words"),
    [(1, r"signals \(B, 2, L\)"), (2, r"images \(B, 2, H, W\)"), (3, r"volumes \(B, 2, D, H, W\)")],
)
def test_other_numbers_of_axes_are_refused_by_name(build, draw, dims, words):
    net = build(2, dims)
    for shape in ((4, 2), *((4, 2, *[4] * d) for d in (1, 2, 3) if d != dims), (4, 3, *[4] * dims)):
        with pytest.raises(ValueError, match=rf"x has shape \({shape[0]}, .*; the network takes {words}\."):
            net(draw(*shape), draw(4))


@pytest.mark.parametrize("kind", [UNet, DiT])
def test_other_dimensions_are_refused(kind):
    for dims in (0, 4):
        with pytest.raises(ValueError, match=rf"dims = {dims}; give 1 for signals, 2 for images or 3 for volumes\."):
            kind(1, dims=dims)
    with pytest.raises(ValueError, match=r"a grid of 3 dimensions; give Fields\(..., dims=3\)"):
        kind(1, dims=3, conditions={"c": Fields(1)})


@pytest.mark.parametrize("make", [UNet.small, DiT.small, UNet.large], ids=["unet", "dit", "large unet"])
def test_sizes_say_how_many_dimensions_there_are(make):
    with torch.device("meta"):
        patch = make(1, 64).patch
        for size in ((64,),) if make == UNet.large else ((64,), (64, 80), (64, 64, 80)):
            net = make(1, size)
            assert net.dims == len(size) and net.patch == patch > 1


def test_small_transformers_have_patches_that_tile_their_states():
    assert [DiT.small(1, size).patch for size in ((16, 20), (20, 6), (8,), (9,), (4, 16, 16), 3)] == [4, 1, 2, 1, 1, 1]


@pytest.mark.parametrize("dims", [1, 3])
def test_derivatives_either_way_are_finite_differences(build, draw, dims):
    """Divergences take them for all directions at once."""
    net, level = build(1, dims).double(), draw(2).double()
    x, direction = (draw(2, 1, *GRIDS[dims]).double() for _ in range(2))
    f = lambda y: net(y, level)
    h = 1e-5
    central = (f(x + h * direction) - f(x - h * direction)) / (2 * h)
    slopes = torch.func.vmap(lambda v: torch.func.jvp(f, (x,), (v,))[1])(torch.stack([direction, -direction]))
    torch.testing.assert_close(slopes, torch.stack([central, -central]), rtol=1e-5, atol=1e-7)
    y = x.clone().requires_grad_()
    back = torch.autograd.grad((f(y) * direction).sum(), y)[0]
    torch.testing.assert_close((back * direction).sum(), (direction * central).sum(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("grid", [(7,), (2, 2, 2), (2, 5, 1), (3, 4, 4)], ids=str)
def test_bfloat16_has_the_same_derivatives(build, generator, device, grid):
    """Of volumes of depth 2, whose gradients torch forms of memory that was never written, too."""
    x, level = (torch.randn(s, generator=generator).to(device) for s in ((8, 1, *grid), (8,)))
    slopes = []
    for mixed in (False, True):
        net = build(1, len(grid), mixed=mixed).float()
        net(x, level).square().mean().backward()
        slopes.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
    assert torch.cosine_similarity(*slopes, 0) > 0.99


@pytest.mark.parametrize("dims", [1, 3])
def test_every_condition_is_heard_in_every_dimension(build, draw, dims, device):
    kinds = {"label": Label(3), "v": Vector(2), "s": Set(2), "f": Fields(2, dims)}
    grid = GRIDS[dims]
    net = build(1, dims, conditions=kinds)
    x, level = draw(2, 1, *grid), draw(2)
    cond = {"label": torch.tensor([0, 2], device=device), "v": draw(2, 2), "s": draw(2, 3, 2), "f": draw(2, 2, *grid)}
    out = net(x, level, **cond)
    assert out.shape == x.shape
    for name in kinds:
        other = net(x, level, **cond | {name: cond[name].flip(0)})
        assert ((other - out).flatten(1).abs().amax(1) > 1e-4).all(), name
    with pytest.raises(ValueError, match=r"f is given on a grid of \(.*; resize it\."):
        net(x, level, **cond | {"f": draw(2, 2, *(n + 1 for n in grid))})


@pytest.mark.parametrize("dims", [1, 3])
@pytest.mark.turns("unet-*", "patched unet-1", "dit-3")
def test_models_of_signals_and_volumes_train_go_on_sample_and_come_back(build, draw, dims, tmp_path):
    """A run that was stopped ends as one that was not, and a model is what its file says."""
    x, runs = draw(24, 2, *GRIDS[dims]).float(), []
    for stops in ([4], [2, 4]):
        model = sdegen.Model(build(2, dims).float(), sdegen.VP())
        for steps in stops:
            settings = Settings(steps=steps, batch_size=8, schedule=constant_rate, seed=0)
            sdegen.fit(model, x, settings, checkpoint=tmp_path / str(len(stops)), progress=False)
        runs.append(model.eval())
    one, two = ([*model.state_dict().values()] for model in runs)
    assert all(torch.equal(a, b) for a, b in zip(one, two))
    sdegen.save(model, tmp_path / "model")
    again = sdegen.load(tmp_path / "model").to(x.device).eval()
    drawn = [sdegen.sample(m, 3, steps=2, seed=0, progress=False) for m in (model, again)]
    assert drawn[0].shape == (3, 2, *GRIDS[dims]) and torch.equal(*drawn)


@pytest.mark.parametrize(("shape", "flat"), [((2, 7), (2, 1, 7)), ((2, 1, 7), (2, 7)), ((1, 3, 1, 4), (1, 3, 4))])
def test_heat_does_not_ask_for_axes_of_one_place(shape, flat):
    one, other = (sdegen.Blurring(s) for s in (shape, flat))
    t = torch.tensor([0.1, 0.7], dtype=torch.float64)
    assert torch.equal(one.alpha(t).reshape(2, *flat), other.alpha(t)) and one.sigma(t).shape == (2, *shape)
    x = torch.randn(2, *shape)
    assert torch.allclose(one.basis(x).reshape(2, *flat), other.basis(x.reshape(2, *flat)), atol=1e-6)
